"""Many damaged files and wrong values in one process: what a reader returns is the intact content, or an error that names
the file or the key."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import children, commands, inputs, values
from .children import Case
from .damage import DAMAGES
from .spoiled import copy_of

_BATCH = 24
_SECONDS = 60


def _boosting(path: Path) -> object:
    from trainers.method.prompt_file import load_boosting

    group, info = load_boosting(path)
    return [{name: stack.tolist() for name, stack in group.named_parameters()}, repr(info)]


def _checkpoint(path: Path) -> object:
    from trainers.storage.tensors import read_checkpoint

    state = read_checkpoint(path)["state_dict"]
    if not isinstance(state, dict):
        raise ValueError(f"{path}: a {type(state).__name__}; expected a state dict")
    return {name: tensor.tolist() for name, tensor in sorted(state.items())}


def _weights(path: Path) -> object:
    from trainers.storage.tensors import read_weights

    return {
        name: [list(tensor.shape), float(tensor.double().sum())]
        for name, tensor in sorted(read_weights(path)[0].items())
    }


def _published(path: Path) -> object:
    from trainers.method.published import import_published

    return {name: stack.tolist() for name, stack in import_published(path)[0].named_parameters()}


def _identity(path: Path) -> object:
    from trainers.training import identity

    return identity.read(path.parent)


def _result(path: Path) -> object:
    from trainers.experiments import result

    return dict(result.read(path).evaluations)


def _image(path: Path) -> object:
    """Return the pixels, or those that Pillow itself reads, which are then no fault of this package."""
    import hashlib

    from PIL import Image

    from datasets.images import read_image

    read = read_image(str(path))
    with Image.open(path) as opened:
        same = opened.convert("RGB").tobytes() == read.convert("RGB").tobytes()
    return "as Pillow reads it" if same else hashlib.sha256(read.tobytes()).hexdigest()


# Readers of files that have a checksum, or whose content is compared as a whole.
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "boosting prompt": ("boost/boosting.safetensors", _boosting),
    "checkpoint": ("coop/prompt_learner/model.pth.tar-2", _checkpoint),
    "weights": ("student.pt", _weights),
    "published checkpoint": ("published/CasPL/model.pth.tar-*", _published),
    "identity": ("coop/identity.json", _identity),
    "image": ("data/train/*/*.png", _image),
}


def files(name: str, folder: Path, intact: dict, rng: random.Random) -> list[Case]:
    """Damage copies of a file, and read each in the same child."""
    pattern, read = READERS[name]
    source = rng.choice(sorted((folder / "intact").glob(pattern)))
    place, trace = folder / "direct", folder / "trace"
    damages = [damage for damage in DAMAGES if damage not in ("named pipe", "missing", "folder", "link to itself")]

    def one(number: int) -> tuple[str, str, str]:
        damage = rng.choice(damages)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        path = place / source.name
        shutil.copyfile(source, path)
        expected = json.dumps(read(path))
        DAMAGES[damage](path, rng, trace)
        outcome, text = _outcome(lambda: json.dumps(read(path)), expected, [str(path)])
        return ("executed" if trace.exists() else outcome), f"{damage}: {path}", text

    return _batch(f"file, its reader alone: {name}", one, folder)


def edits(name: str, folder: Path, intact: dict, rng: random.Random) -> list[Case]:
    """Edit copies of a list of images or classes, and read each in the same child."""
    from dassl.data.datasets import build_dataset

    from trainers.experiments.places import CONFIGS
    from trainers.experiments.setup import assemble

    dataset, data = inputs.PLACES[name]

    def listed(root: Path, options: tuple[str, ...] = ()) -> list:
        places = ["DATASET.ROOT", str(root / data), "OUTPUT_DIR", str(root / "new"), "TRAINER.NAME", "ZeroshotCLIP"]
        places += [item.format(root=root) for item in commands.MODEL]
        file = CONFIGS / "datasets" / "image_folder.yaml"
        built = build_dataset(
            assemble([file], [*places, "DATASET.NAME", dataset, "DATALOADER.NUM_WORKERS", 0, *options])
        )
        return sorted([Path(item.impath).name, item.label, item.classname] for item in built.test)

    def one(number: int) -> tuple[str, str, str]:
        root = copy_of(folder) if number == 0 else folder / "damaged"
        for part in ("data/classnames.txt", "table/images.csv", "pets/oxford_pets/split_zhou_OxfordPets.json"):
            shutil.copyfile(folder / "intact" / part, root / part)
        edit = inputs.EDITS[name](root, rng)
        expected = None if edit.names is not None else listed(folder / "intact")
        outcome, text = _outcome(lambda: listed(root, edit.options), expected, edit.names or [])
        return outcome, edit.what, text

    return _batch(f"data, its reader alone: {name}", one, folder)


def values_of_keys(folder: Path, intact: dict, rng: random.Random) -> list[Case]:
    """Set random keys to random values, each in the configuration of a trainer."""
    from trainers import config
    from trainers.experiments.places import CONFIGS
    from trainers.experiments.setup import assemble

    def one(number: int) -> tuple[str, str, str]:
        trainer, field, value = values.draw(rng)
        host = trainer.removeprefix("CasPL_")
        places = ["OUTPUT_DIR", str(folder / "new"), "TRAINER.NAME", trainer]
        recipe = [CONFIGS / "datasets" / "image_folder.yaml", CONFIGS / "trainers" / host / "shapes.yaml"]
        pairs = [*places, field.name, value]
        wrong = values.wrong(field, value)
        outcome, text = _outcome(
            lambda: config.shown(assemble(recipe, pairs)) and "", None if wrong else "", [field.name]
        )
        return outcome, f"{trainer} {field.name} {value!r}", text

    return _batch("value, the configuration alone", one, folder)


def _outcome(read: Callable[[], Any], expected: Any, names: list[str]) -> tuple[str, str]:
    """Return the outcome of a reader and its error: the errors that programs print in one line are rejections."""
    try:
        found = read()
    except (ValueError, OSError, KeyError) as error:
        message = str(error)
        if expected is not None and not names:
            return "differs", message
        return ("rejected" if any(name in message for name in names) else "message"), message
    except Exception as error:
        return "traceback", repr(error)
    if expected is None:
        return "silent", str(found)[:200]
    return ("same" if found == expected else "differs"), str(found)[:200]


def _batch(kind: str, one: Callable[[int], tuple[str, str, str]], folder: Path) -> list[Case]:
    """Run some cases in a child."""
    ended = children.run(lambda: {number: one(number) for number in range(_BATCH)}, folder, limit=_SECONDS)
    if ended.figures is None:
        return [Case(kind, "hang" if ended.code is None else "traceback", ended.text)]
    return [Case(kind, outcome, f"{what}\n{text}") for outcome, what, text in ended.figures.values()]
