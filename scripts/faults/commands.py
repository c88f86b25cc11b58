"""Small inputs, and the commands that are killed or given damaged files."""

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("circle", "heart", "square", "star")
MODEL = ["MODEL.BACKBONE.NAME", "{root}/student.pt", "INPUT.SIZE", "(48, 48)", "DATALOADER.NUM_WORKERS", "0"]
SIZES = [*MODEL, "OPTIM.MAX_EPOCH", "2", "DATALOADER.TRAIN_X.BATCH_SIZE", "4"]
PHASE_1 = [
    *("TRAINER.CASPL.TEACHER.BACKBONE", "{root}/teacher.pt", "TRAINER.CASPL.DEPTH_TEXT", "2"),
    *("TRAINER.CASPL.DEPTH_VISION", "2", "TRAINER.CASPL.N_CTX_TEXT", "2", "TRAINER.CASPL.N_CTX_VISION", "2"),
]


def write_inputs(root: Path) -> None:
    """Write small images and copies of the embedded CLIPs."""
    from trainers.backbones import find_weights

    rng = np.random.default_rng(1)
    for part, count in (("train", 3), ("test", 3)):
        for label, name in enumerate(CLASSES):
            folder = root / "data" / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = rng.integers(30 * label, 30 * label + 120, (48, 48, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    for name in ("student", "teacher"):
        (root / f"{name}.pt").write_bytes(Path(find_weights(f"shapes-{name}")).read_bytes())


def train(root: Path, trainer: str, folder: str, *more: str) -> Callable[[], Mapping | None]:
    """Return the command that trains or evaluates one trainer; more: KEY VALUE pairs and flags."""
    from trainers.cli import train as command
    from trainers.experiments.places import CONFIGS

    recipe = "CasPL" if trainer == "CasPL" else trainer.removeprefix("CasPL_")
    line = ["--root", str(root / "data"), "--seed", "1", "--trainer", trainer, "--output-dir", str(root / folder)]
    line += ["--config-file", str(CONFIGS / "trainers" / recipe / "shapes.yaml")]
    line += ["--dataset-config-file", str(CONFIGS / "datasets" / "image_folder.yaml")]
    options = {"CasPL": SIZES + PHASE_1, "ZeroshotCLIP": MODEL}.get(trainer, SIZES)
    return lambda: command.run([*line, *(item.format(root=root) for item in options), *more])


def evaluate(root: Path, folder: str) -> Callable[[], Mapping | None]:
    """Return the family's command that evaluates a finished run."""
    from trainers.cli import train as command

    return lambda: command.run(["--eval-only", "--model-dir", str(root / folder), "DATASET.ROOT", str(root / "data")])


def protocol(root: Path, output: str, grid: bool = False) -> Callable[[], Mapping | None]:
    """Return the few-shot command, or a grid of it with two seeds; its figures are those of all results."""
    from trainers.cli import protocols
    from trainers.experiments import result
    from trainers.experiments.protocols import PROTOCOLS

    places = ["--data", str(root / "data"), "--output", str(root / output)]
    options = [item.format(root=root) for item in (*SIZES, *PHASE_1, "--boost", "OPTIM.MAX_EPOCH", "2")]

    def command() -> Mapping:
        if grid:
            line = [
                "few_shot",
                "--datasets",
                "image_folder",
                "--hosts",
                "coop",
                "--seeds",
                "1",
                "2",
                "--shots-list",
                "1",
            ]
            protocols.reproduce([*line, *places, *options])
        else:
            protocols.one_run(PROTOCOLS["few_shot"], ["image_folder", "1", "1", "--host", "coop", *places, *options])
        paths = sorted((root / output).rglob(result.FILE_NAME))
        return {str(path.relative_to(root / output)): result.read(path).figures for path in paths}

    return command


def learned(folder: Path) -> dict[str, bytes]:
    """Return the contents of the prompt files and the figures below a folder, without times and places."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}
    for path in sorted(folder.rglob("result.json")):
        found[str(path.relative_to(folder))] = json.dumps(json.loads(path.read_text())["evaluations"]).encode()
    return found


def random_value(rng: random.Random) -> str:
    """Return a value that few keys accept."""
    return rng.choice(_VALUES)


_VALUES = [
    *(
        "None",
        "nan",
        "inf",
        "-inf",
        "-1",
        "0",
        "1.5",
        "1e999",
        str(2**40),
        str(-(2**70)),
        "0x10",
        "True",
        "''",
        "[]",
        "()",
    ),
    *("{}", "[1, 'x']", "(0, 0)", "('normalize',)", "x" * 300, "[" * 200, "__import__('os')", "../../x", "\u202e"),
]
