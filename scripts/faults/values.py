"""Wrong values and other settings: each is rejected in one line that names the key, before anything is written."""

import dataclasses
import random
import shutil
from pathlib import Path

from . import children, commands
from .children import Case
from .spoiled import copy_of

_TRAINERS = ("CoOp", "CasPL", "CoCoOp", "MaPLe", "PromptSRC", "KgCoOp", "TCP", "ZeroshotCLIP")
_NUMBERS = ("nan", "inf", "-inf", "1e999", "-1", "0", "1.5", "2.0", str(2**40), str(-(2**70)), "0x10", "1_000")
_OTHERS = ("None", "True", "''", "[]", "()", "{}", "[1, 'x']", "(0, 0)", "(1,", "('normalize',)", "[None]", "{1: 2}")
_TEXTS = (
    "x" * 300,
    "x" * 5000,
    "[" * 200,
    "__import__('os')",
    "../../x",
    "\u202e",
    "\ud83d\ude00",
    "a\nb",
    "b'x'",
    "1j",
)
_VALUES = (*_NUMBERS, *_OTHERS, *_TEXTS)

# Settings that a run computes with, each with other values that are valid.
_SETTINGS = {
    "OPTIM.LR": ("0.5", "0.01", "1e-4"),
    "OPTIM.MAX_EPOCH": ("3", "4", "1"),
    "OPTIM.WEIGHT_DECAY": ("0.1", "0.0"),
    "SEED": ("2", "17"),
    "DATASET.NUM_SHOTS": ("1", "2"),
    "DATASET.SUBSAMPLE_CLASSES": ("base", "new"),
    "DATALOADER.TRAIN_X.BATCH_SIZE": ("2", "3"),
    "INPUT.INTERPOLATION": ("bilinear",),
    "TRAINER.COOP.CTX_INIT": ("a picture of a", "the"),
    "TRAINER.COOP.CLASS_TOKEN_POSITION": ("front", "middle"),
}
_OF_PROTOCOLS = ("SEED", "DATASET.NUM_SHOTS", "DATASET.SUBSAMPLE_CLASSES")  # they set these keys themselves


def one_value(folder: Path, intact: dict, rng: random.Random) -> Case:
    """Set a random key to a random value; what is accepted must at least build."""
    root = folder / "intact"
    trainer, field, value = draw(rng)
    shutil.rmtree(root / "valued", ignore_errors=True)
    ended = children.run(commands.train(root, trainer, "valued", "--no-train", field.name, value), folder)
    ended = dataclasses.replace(ended, figures={})  # nothing is computed
    outcome = ended.outcome(None if wrong(field, value) else {}, [field.name, repr(value)])
    if outcome == "rejected" and (root / "valued").exists():
        outcome = "message"
    return Case(f"value: {field.name.split('.')[0]}", outcome, f"{trainer} {field.name} {value!r}\n{ended.text}")


def draw(rng: random.Random) -> tuple:
    """Return a trainer, one of the keys that it reads, and a value."""
    from trainers import config

    trainer = rng.choice(_TRAINERS)
    fields = [field for field in config.fields_of(trainer) if field.name not in ("OUTPUT_DIR", "RESUME")]
    return trainer, rng.choice(fields), rng.choice(_VALUES)


def wrong(field, value: str) -> bool:
    """Return whether a value is wrong whatever the key means: the key is a number, and the value is not a usable one."""
    kind = field.kind or type(field.default)
    if value == "None":
        return field.default is not None
    if kind in (int, float):
        return value in ("nan", "inf", "-inf", "1e999", str(-(2**70)), *_OTHERS, *_TEXTS) and value != "True"
    return kind is bool and value in ("nan", "inf", "1.5", *_TEXTS)


def one_setting(folder: Path, intact: dict, rng: random.Random) -> Case:
    """Repeat the command of a run with another setting; the run's files must not be taken for the answer."""
    root = copy_of(folder)
    route = rng.choice(["same folder", "resume", "protocol", "without config.yaml", "half run"])
    key = rng.choice([key for key in _SETTINGS if route != "protocol" or key not in _OF_PROTOCOLS])
    value, run = rng.choice(_SETTINGS[key]), "half" if route == "half run" else "coop"
    if route == "protocol":
        command = commands.protocol(root, "output", "--adapt", key, value)
    elif route == "resume":
        command = commands.train(root, "CoOp", "new", "--resume", str(root / run), *commands.KEPT, key, value)
    else:
        command = commands.train(root, "CoOp", run, *commands.KEPT, key, value)
    if route == "without config.yaml":
        (root / run / "config.yaml").unlink()
        if rng.random() < 0.5:
            (root / run / "config.yaml").touch()
    ended = children.run(command, folder)
    return Case(f"other setting: {route}", ended.outcome(None, [key]), f"{key} {value}\n{ended.text}")
