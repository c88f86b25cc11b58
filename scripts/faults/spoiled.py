"""Damaged files: the command that reads one gives the intact figures, or rejects the file in one line that names it."""

import contextlib
import gc
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from . import children, commands
from .children import Case
from .damage import DAMAGES, copied, separate

BYTES = ["truncated", "bits flipped", "bytes inserted", "zeroed"]
EDITED = ("few-shot draw", "split file", "csv", "class list")  # other bytes may be another valid file: see `inputs`


@dataclass(frozen=True)
class Target:
    """A file to damage.

    Attributes:
        pattern: its path below the root; one match is drawn.
        command: makes the command that reads it, from the root.
        figures: the name of the figures that it must give if the file is accepted.
        names: what a rejection may name in place of the file, such as its folder; below the root.
    """

    pattern: str
    command: Callable[[Path], Callable]
    figures: str
    names: tuple[str, ...] = ()


def _host(root: Path) -> Callable:
    return commands.train(root, "CasPL_CoOp", "new", "TRAINER.CASPL.CHECKPOINT", str(root / "boost"))


def _evaluated(run: str) -> Callable[[Path], Callable]:
    return lambda root: commands.evaluate(root, run)


def _half(root: Path) -> Callable:
    return commands.train(root, "CoOp", "half", *commands.KEPT)


def _cached(root: Path) -> Callable:
    return commands.train(root, "CasPL", "new", "TRAINER.CASPL.TEACHER.CACHE", str(root / "cache"))


def _phase_1(root: Path) -> Callable:
    return commands.train(root, "CasPL", "new")


def _shots(root: Path) -> Callable:
    return commands.train(root, "CoOp", "new", "DATASET.NUM_SHOTS", "1")


TARGETS = {
    "boosting prompt": Target("boost/boosting.safetensors", _host, "host", ("boost",)),
    "boosting prompt of a run": Target(
        "host/boosting.safetensors", _evaluated("host"), "host evaluated", ("host/prompt_learner",)
    ),
    "checkpoint": Target("coop/prompt_learner/model.pth.tar-2", _evaluated("coop"), "coop evaluated", ("coop",)),
    "pointer to the last checkpoint": Target(
        "coop/prompt_learner/checkpoint", _evaluated("coop"), "coop evaluated", ("coop",)
    ),
    "student": Target("student.pt", _evaluated("coop"), "coop evaluated"),
    "teacher": Target("teacher.pt", _phase_1, "boost"),
    "teacher cache": Target("cache/*.features", _cached, "cached"),
    "progress": Target("half/progress.pt", _half, "coop"),
    "ledger": Target("host/ledger.json", _evaluated("host"), "host evaluated"),
    "identity": Target("coop/identity.json", _evaluated("coop"), "coop evaluated"),
    "identity of a half run": Target("half/identity.json", _half, "coop"),
    "settings of a run": Target("coop/config.yaml", _evaluated("coop"), "coop evaluated", ("coop",)),
    "settings of a half run": Target("half/config.yaml", _half, "coop", ("half",)),
    "result": Target(
        "output/few_shot/image_folder/*CoOp/*/*/result.json",
        lambda root: commands.protocol(root, "output"),
        "protocol",
        ("output/few_shot",),
    ),
    "prompt of a protocol": Target(
        "output/boosting/image_folder/boosting.safetensors",
        lambda root: commands.protocol(root, "output"),
        "protocol",
        ("output/boosting/image_folder", "output/few_shot/image_folder"),
    ),
    "few-shot draw": Target("data/split_fewshot/shot_1-seed_1.json", _shots, "one shot"),
    "published checkpoint": Target("published/CasPL/model.pth.tar-*", commands.imported, "imported", ("published",)),
    "split file": Target(
        "pets/oxford_pets/split_zhou_OxfordPets.json",
        lambda root: commands.zero_shot(root, "OxfordPets", "pets"),
        "pets",
        ("pets/oxford_pets",),
    ),
    "csv": Target("table/images.csv", lambda root: commands.zero_shot(root, "ImageCSV", "table"), "table"),
    "class list": Target(
        "data/classnames.txt", lambda root: commands.zero_shot(root, "ImageFolder", "data"), "zero-shot"
    ),
    "recipe": Target("recipe.yaml", lambda root: commands.train(root, "CoOp", "new", recipe="recipe.yaml"), "recipe"),
    "training image": Target("data/train/*/*.png", lambda root: commands.train(root, "CoOp", "new"), "coop trained"),
    "test image": Target("data/test/*/*.png", _evaluated("coop"), "coop evaluated"),
}


def _keys() -> list[str]:
    from trainers.config import FIELDS

    return list(FIELDS)


def prepare(folder: Path) -> dict[str, dict | None]:
    """Make the intact runs; return their figures.

    Raises:
        RuntimeError: one of them failed.
    """
    root = folder / "intact"
    boosting = ("TRAINER.CASPL.CHECKPOINT", str(root / "boost"))
    made: dict[str, Callable] = {
        "boost": commands.train(root, "CasPL", "boost"),
        "cached": commands.train(root, "CasPL", "cached", "TRAINER.CASPL.TEACHER.CACHE", str(root / "cache")),
        "coop": commands.train(root, "CoOp", "coop", *commands.KEPT),
        "coop evaluated": commands.evaluate(root, "coop"),
        "coop trained": commands.train(root, "CoOp", "again"),
        "host": commands.train(root, "CasPL_CoOp", "host", *boosting),
        "host evaluated": commands.evaluate(root, "host"),
        "protocol": commands.protocol(root, "output"),
        "published": commands.exported(root),
        "imported": commands.imported(root),
        "one shot": commands.train(root, "CoOp", "shots", "DATASET.NUM_SHOTS", "1"),
        "recipe": commands.train(root, "CoOp", "recipe", recipe="recipe.yaml"),
        "pets": commands.zero_shot(root, "OxfordPets", "pets"),
        "table": commands.zero_shot(root, "ImageCSV", "table"),
        "zero-shot": commands.zero_shot(root, "ImageFolder", "data"),
        "grey": commands.zero_shot(root, "ImageFolder", "grey"),
    }
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        commands.train(root, "CasPL", "warm")()  # what children would otherwise import and build each time
        commands.evaluate(root, "warm")()
    gc.freeze()
    found: dict[str, dict | None] = {}
    for name, command in made.items():
        ended = children.run(command, folder)
        if ended.code != 0:
            raise RuntimeError(f"{name} failed:\n{ended.text}")
        found[name] = ended.figures
    draw = root / "shots" / "split_fewshot"
    (root / "data" / "split_fewshot").mkdir()
    for path in draw.iterdir():
        (root / "data" / "split_fewshot" / path.name.removeprefix("ImageFolder-")).write_bytes(path.read_bytes())
    for count in range(1, 40):  # killed at a renaming, until the first epoch's progress is left
        children.run(
            commands.train(root, "CoOp", "half", *commands.KEPT), folder, children.dies_at_rename(count, before=False)
        )
        if (root / "half" / "progress.pt").is_file():
            break
    for name, target in TARGETS.items():  # an undamaged copy must give the intact figures
        copy = copy_of(folder)
        paths = sorted(copy.glob(target.pattern))
        ended = children.run(target.command(copy), folder)
        if not paths or ended.outcome(found[target.figures]) != "same":
            raise RuntimeError(f"{name}: the intact file {paths[:1]} does not give the intact figures:\n{ended.text}")
    return found


def copy_of(folder: Path) -> Path:
    """Return a copy of the intact folder, whose runs name its own weights."""
    root = copied(folder / "intact", folder / "damaged")
    for path in (*root.rglob("config.yaml"), *root.rglob("result.json")):
        path.write_text(path.read_text().replace(str(folder / "intact"), str(root)))
    return root


def one(name: str, folder: Path, intact: dict, rng: random.Random) -> Case:
    """Damage one file and run the command that reads it."""
    target = TARGETS[name]
    image = target.pattern.endswith(".png")
    left_out = ["missing"] if image else BYTES if name in EDITED else []
    damage = rng.choice([damage for damage in DAMAGES if damage not in left_out])
    root, trace = copy_of(folder), folder / "trace"
    trace.unlink(missing_ok=True)
    path = separate(rng.choice(sorted(root.glob(target.pattern))))
    DAMAGES[damage](path, rng, trace)
    ended = children.run(target.command(root), folder)
    text = f"{damage}: {path}\n{ended.text}"
    if trace.exists():
        return Case(f"file: {name}", "executed", text)
    expected = intact[target.figures]
    if image and ended.code == 0:
        if not path.is_file():  # left out, which a line must count
            counted = any(f"skipped 1 {what}" in ended.text for what in ("files", "sub-folders"))
            return Case(f"file: {name}", "same" if counted else "silent", text)
        expected = _decoded(target, path, folder)
    names = [str(path), *(str(root / below) for below in target.names)]
    if path.suffix == ".yaml":
        names += _keys()  # of a damaged value, the key is named
    return Case(f"file: {name}", ended.outcome(expected, names), text)


def _decoded(target: Target, damaged: Path, folder: Path) -> dict | None:
    """Return the figures with an undamaged file of the pixels that Pillow reads; None if it reads none."""
    try:
        with Image.open(damaged) as image:
            pixels = image.convert("RGB")
    except Exception:  # Pillow raises many kinds
        return None
    root = copy_of(folder)
    pixels.save(separate(root / damaged.relative_to(root)))
    return children.run(target.command(root), folder).figures
