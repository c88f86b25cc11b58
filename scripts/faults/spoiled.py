"""Damaged files and wrong values: each is rejected in one line, or changes no figure."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import children, commands
from .damage import DAMAGES, copied


@dataclass(frozen=True)
class Target:
    """A file to damage.

    Attributes:
        pattern: its path below the root; one match is drawn.
        command: makes the command that reads it, from the root.
        prepared: the name of the figures that it must give if it is accepted.
        free: other figures are right too: the file is an input that may be edited, or is written again.
    """

    pattern: str
    command: Callable[[Path], Callable]
    prepared: str
    free: bool = False


_KEPT = ("TRAIN.CHECKPOINT_FREQ", "1")


def _host(root: Path) -> Callable:
    return commands.train(root, "CasPL_CoOp", "new", "TRAINER.CASPL.CHECKPOINT", str(root / "boost"))


def _zero_shot(root: Path) -> Callable:
    return commands.train(root, "ZeroshotCLIP", "new", "--eval-only")


TARGETS = {
    "boosting prompt": Target("boost/boosting.safetensors", _host, "host"),
    "boosting prompt of a run": Target(
        "host/boosting.safetensors", lambda root: commands.evaluate(root, "host"), "host evaluated"
    ),
    "checkpoint": Target(
        "coop/prompt_learner/model.pth.tar-*", lambda root: commands.evaluate(root, "coop"), "coop evaluated"
    ),
    "name of the last checkpoint": Target(
        "coop/prompt_learner/checkpoint", lambda root: commands.evaluate(root, "coop"), "coop evaluated"
    ),
    "student": Target("student.pt", lambda root: commands.evaluate(root, "coop"), "coop evaluated"),
    "teacher": Target("teacher.pt", lambda root: commands.train(root, "CasPL", "new"), "boost"),
    "progress": Target("half/progress.pt", lambda root: commands.train(root, "CoOp", "half", *_KEPT), "coop"),
    "ledger": Target("host/ledger.json", lambda root: commands.evaluate(root, "host"), "host evaluated"),
    "settings of a run": Target(
        "coop/config.yaml", lambda root: commands.evaluate(root, "coop"), "coop evaluated", True
    ),
    "settings of a half run": Target(
        "half/config.yaml", lambda root: commands.train(root, "CoOp", "half", *_KEPT), "coop"
    ),
    "result": Target(
        "output/few_shot/image_folder/CasPL_CoOp/*/*/result.json",
        lambda root: commands.protocol(root, "output"),
        "protocol",
    ),
    "prompt of a protocol": Target(
        "output/boosting/image_folder/boosting.safetensors", lambda root: commands.protocol(root, "output"), "protocol"
    ),
    "training image": Target("data/train/*/*.png", lambda root: commands.train(root, "CoOp", "new"), "coop", True),
    "test image": Target("data/test/*/*.png", lambda root: commands.evaluate(root, "coop"), "coop evaluated", True),
    "class names": Target("data/classnames.txt", _zero_shot, "zero-shot", True),
}


def prepare(folder: Path) -> dict[str, dict | None]:
    """Make the intact runs; return their figures.

    Raises:
        RuntimeError: one of them failed.
    """
    root = folder / "intact"
    (root / "data" / "classnames.txt").write_text("".join(f"{name} {name}\n" for name in commands.CLASSES))
    boosting = ("TRAINER.CASPL.CHECKPOINT", str(root / "boost"))
    made: dict[str, Callable] = {
        "boost": commands.train(root, "CasPL", "boost"),
        "coop": commands.train(root, "CoOp", "coop", *_KEPT),
        "coop evaluated": commands.evaluate(root, "coop"),
        "host": commands.train(root, "CasPL_CoOp", "host", *boosting),
        "host evaluated": commands.evaluate(root, "host"),
        "protocol": commands.protocol(root, "output"),
        "zero-shot": _zero_shot(root),
    }
    found: dict[str, dict | None] = {}
    for name, command in made.items():
        ended = children.run(command, folder)
        if ended.code != 0:
            raise RuntimeError(f"{name} failed:\n{ended.text}")
        found[name] = ended.figures
    for count in range(1, 40):  # killed at a renaming, until the first epoch's progress is left
        children.run(commands.train(root, "CoOp", "half", *_KEPT), folder, children.dies_at_rename(count, before=False))
        if (root / "half" / "progress.pt").is_file():
            break
    for name, target in TARGETS.items():  # an undamaged copy must give the intact figures
        ended = children.run(target.command(_copy(folder)), folder)
        if ended.outcome(found[target.prepared]) != "same":
            raise RuntimeError(f"{name}: the intact file does not give the intact figures:\n{ended.text}")
    return found


def _copy(folder: Path) -> Path:
    """Return a copy of the intact folder, whose runs name its own weights."""
    root = copied(folder / "intact", folder / "damaged")
    for path in (*root.rglob("config.yaml"), *root.rglob("result.json")):
        path.write_text(path.read_text().replace(str(folder / "intact"), str(root)))
    return root


def one_file(folder: Path, intact: dict, rng: random.Random) -> tuple[str, str, str]:
    """Damage one file and run the command that reads it; return (what, outcome, its output)."""
    name = rng.choice(list(TARGETS))
    damage = rng.choice(list(DAMAGES))
    target = TARGETS[name]
    root = _copy(folder)
    trace = folder / "trace"
    trace.unlink(missing_ok=True)
    path = rng.choice(sorted(root.glob(target.pattern)))
    before = path.read_bytes()
    DAMAGES[damage](path, rng, trace)
    unchanged = path.is_file() and not path.is_symlink() and path.read_bytes() == before
    ended = children.run(target.command(root), folder)
    if trace.exists():
        return f"file: {name}", "executed", ended.text
    outcome = ended.outcome(intact[target.prepared], free=target.free or damage == "missing" or unchanged)
    return f"file: {name}", outcome, f"{damage}: {path}\n{ended.text}"


def one_value(folder: Path, intact: dict, rng: random.Random) -> tuple[str, str, str]:
    """Set a random key to a random value; return (what, outcome, its output)."""
    from trainers.config import leaves
    from trainers.experiments.setup import default_cfg

    root = folder / "intact"
    keys = [key for key, _ in leaves(default_cfg()) if key not in ("OUTPUT_DIR", "RESUME")]
    key, value = rng.choice(keys), commands.random_value(rng)
    trainer = rng.choice(["CoOp", "CasPL"])
    ended = children.run(commands.train(root, trainer, "valued", "--no-train", key, value), folder)
    outcome = ended.outcome({}, free=True)  # a value that is accepted must at least build
    return f"value: {key.split('.')[0]}", outcome, f"{key} {value!r}\n{ended.text}"
