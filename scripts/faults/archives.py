"""Hostile files of weights: by no key is anything in them executed, and bombs end in seconds."""

import io
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

from . import children, commands
from .children import Case
from .damage import Bomb
from .spoiled import copy_of


def archive(folder: Path, intact: dict, rng: random.Random) -> Case:
    """Give a hostile file of weights by one of the keys that take weights; nothing in it may be executed."""
    root, trace = copy_of(folder), folder / "trace"
    trace.unlink(missing_ok=True)
    path = root / "hostile.pt"
    what = rng.choice(list(_ARCHIVES))
    _ARCHIVES[what](path, rng, trace)
    routes = {
        "student": commands.train(root, "CoOp", "new", "MODEL.BACKBONE.NAME", str(path)),
        "teacher": commands.train(root, "CasPL", "new", "TRAINER.CASPL.TEACHER.BACKBONE", str(path)),
        "first weights": commands.train(root, "CoOp", "new", "MODEL.INIT_WEIGHTS", str(path)),
        "import": commands.imported(root, path),
        "progress": commands.train(root, "CoOp", "half", *commands.KEPT),
        "checkpoint": commands.evaluate(root, "coop"),
    }
    route = rng.choice(list(routes))
    place = {"progress": root / "half" / "progress.pt", "checkpoint": root / "coop/prompt_learner/model.pth.tar-2"}
    if route in place:
        path = Path(shutil.move(path, place[route]))
    ended = children.run(routes[route], folder, limit=children.BOMB)
    outcome = "executed" if trace.exists() else ended.outcome(None, [str(path)])
    return Case(f"hostile weights: {route}", outcome, f"{what}\n{ended.text}")


def scripted(folder: Path, intact: dict, rng: random.Random) -> Case:
    """Give a TorchScript archive of valid weights, with code that would execute; its tensors give the intact figures."""
    root, trace = copy_of(folder), folder / "trace"
    trace.unlink(missing_ok=True)
    route, trainer, key, figures = rng.choice(_SCRIPTED)
    path = root / f"scripted-{route}.pt"
    shutil.copyfile(_with_code(folder, route), path)
    ended = children.run(commands.train(root, trainer, "new", key, str(path)), folder)
    outcome = "executed" if trace.exists() else ended.outcome(intact[figures])
    return Case(f"hostile weights: TorchScript as {route}", outcome, ended.text)


_SCRIPTED = (
    ("student", "CoOp", "MODEL.BACKBONE.NAME", "coop trained"),
    ("teacher", "CasPL", "TRAINER.CASPL.TEACHER.BACKBONE", "boost"),
)


def _with_code(folder: Path, name: str) -> Path:
    """Return an archive of the weights of one of the inputs, written once, whose loading would write the trace."""
    import torch

    from trainers.storage.tensors import read_weights

    from .torchscript import Archived, Writing

    path = folder / f"scripted-{name}.pt"
    if not path.is_file():
        model = Archived(read_weights(folder / "intact" / f"{name}.pt")[0])
        model.add_module("code", Writing(str(folder / "trace")))
        torch.jit.save(torch.jit.script(model), path)
    return path


def _torchscript(path: Path, rng: random.Random, trace: Path) -> None:
    import torch

    from .torchscript import Writing

    kept = trace.with_name("scripted.pt")
    if not kept.is_file():
        torch.jit.save(torch.jit.script(Writing(str(trace))), kept)
    shutil.copyfile(kept, path)


def _pickle(path: Path, rng: random.Random, trace: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        content = {"state_dict": {"prompt_learner.ctx": Bomb(trace)}, "epoch": 1}
        archive.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
        archive.writestr("archive/version", "3\n")
    path.write_bytes(stream.getvalue())


def _compressed(path: Path, rng: random.Random, trace: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        name = rng.choice(["archive/data.pkl", "archive/data/0"])
        with archive.open(name, "w", force_zip64=True) as stream:
            for _ in range(rng.choice([70, 300])):
                stream.write(bytes(1 << 20))
        if name != "archive/data.pkl":
            archive.writestr("archive/data.pkl", _tensor_pickle((1 << 26,), (1,), 1 << 26))


def _strides(path: Path, rng: random.Random, trace: Path) -> None:
    size, stride = rng.choice(
        [((1 << 31, 1 << 31), (0, 0)), ((1 << 40,), (0,)), ((4, 4), (-1, 1)), ((-3,), (1,)), ((5,), (9,))]
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", _tensor_pickle(size, stride, 1))
        archive.writestr("archive/data/0", bytes(4))


def _tensor_pickle(size: tuple, stride: tuple, count: int) -> bytes:
    """Return the pickle of a state dict with one tensor of this size, written by hand."""
    pieces = [b"\x80\x02}X\x08\x00\x00\x00text_ctxctorch._utils\n_rebuild_tensor_v2\n(("]
    pieces += [
        b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu",
        _number(count),
        b"tQ",
    ]
    pieces += [_number(0), *_numbers(size), *_numbers(stride), b"\x89}tRs."]
    return b"".join(pieces)


def _number(value: int) -> bytes:
    return b"L" + str(value).encode() + b"L\n"


def _numbers(values: tuple) -> list[bytes]:
    return [b"(", *map(_number, values), b"t"]


def _nested(path: Path, rng: random.Random, trace: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        depth = rng.choice([1000, 200_000])
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b".")


def _page(path: Path, rng: random.Random, trace: Path) -> None:
    path.write_text("<!DOCTYPE html><html><body>Not found</body></html>\n" * rng.choice([1, 1000]))


_ARCHIVES: dict[str, Callable[[Path, random.Random, Path], None]] = {
    "pickle that executes": _pickle,
    "TorchScript": _torchscript,
    "compression bomb": _compressed,
    "strides": _strides,
    "nested": _nested,
    "web page": _page,
}
