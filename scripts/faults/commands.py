"""Small inputs, and the commands that are killed or given damaged files."""

import csv
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

Command = Callable[[], Mapping | None]

IMAGES = 3  # a class, in each part
CLASSES = ("circle", "heart", "square", "star")
MODEL = ["MODEL.BACKBONE.NAME", "{root}/student.pt", "INPUT.SIZE", "(48, 48)", "DATALOADER.NUM_WORKERS", "0"]
SIZES = [*MODEL, "OPTIM.MAX_EPOCH", "2", "DATALOADER.TRAIN_X.BATCH_SIZE", "4"]
KEPT = ("TRAIN.CHECKPOINT_FREQ", "1")
PHASE_1 = [
    *("TRAINER.CASPL.TEACHER.BACKBONE", "{root}/teacher.pt", "TRAINER.CASPL.DEPTH_TEXT", "2"),
    *("TRAINER.CASPL.DEPTH_VISION", "2", "TRAINER.CASPL.N_CTX_TEXT", "2", "TRAINER.CASPL.N_CTX_VISION", "2"),
]


def write_inputs(root: Path) -> None:
    """Write small images and copies of the embedded CLIPs."""
    import torch

    from trainers.backbones import find_weights
    from trainers.storage.tensors import read_weights

    root.mkdir(parents=True, exist_ok=True)
    for name in ("student", "teacher"):  # stored uncompressed, which is quicker to read
        state, _ = read_weights(find_weights(f"shapes-{name}"))
        content = {"state_dict": state, "activation": "quick_gelu", "head_width": 64}
        torch.save(content, root / f"{name}.pt")
    _write_images(root / "data")
    _write_images(root / "grey", mode="L")
    (root / "data" / "classnames.txt").write_text("".join(f"{name} {name}\n" for name in CLASSES))
    images = {part: sorted((root / "data" / part).rglob("*.png")) for part in ("train", "test")}
    rows = [(path, part) for part, paths in images.items() for path in paths]
    (root / "table").mkdir()
    with open(root / "table" / "images.csv", "w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["path", "classname", "split"])
        for path, part in rows:
            name = f"{path.parent.name}-{part}-{path.name}"
            shutil.copy(path, root / "table" / name)
            table.writerow([name, path.parent.name, part])
    pets = root / "pets" / "oxford_pets"
    (pets / "images").mkdir(parents=True)
    split: dict[str, list] = {"train": [], "val": [], "test": []}
    for path, part in rows:
        name = f"{path.parent.name}_{part}_{path.name}"
        shutil.copy(path, pets / "images" / name)
        split[part].append([name, CLASSES.index(path.parent.name), path.parent.name])
    split["val"] = split["train"][::3]
    split["train"] = [item for item in split["train"] if item not in split["val"]]
    (pets / "split_zhou_OxfordPets.json").write_text(json.dumps(split))
    # Its values are repeated on the command line: what is accepted of a damaged recipe changes no figure.
    (root / "recipe.yaml").write_text("OPTIM:\n  MAX_EPOCH: 2\nINPUT:\n  SIZE: (48, 48)\n")


def _write_images(root: Path, mode: str = "RGB") -> None:
    rng = np.random.default_rng(1)
    for part in ("train", "test"):
        for label, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(IMAGES):
                pixels = rng.integers(30 * label, 30 * label + 120, (48, 48, 3)).astype(np.uint8)
                Image.fromarray(pixels).convert(mode).save(folder / f"{number}.png")


def train(root: Path, trainer: str, folder: str, *more: str, recipe: str = "", data: str = "data") -> Command:
    """Return the command that trains or evaluates one trainer.

    Args:
        root: folder of the inputs.
        trainer: its name.
        folder: the run's, below `root`.
        more: KEY VALUE pairs and flags.
        recipe: a recipe below `root`, in place of the host's.
        data: folder of the data below `root`.
    """
    from trainers.cli import train as command
    from trainers.experiments.places import CONFIGS

    host = "CasPL" if trainer == "CasPL" else trainer.removeprefix("CasPL_")
    path = root / recipe if recipe else CONFIGS / "trainers" / host / "shapes.yaml"
    line = ["--root", str(root / data), "--seed", "1", "--trainer", trainer, "--output-dir", str(root / folder)]
    line += ["--config-file", str(path), "--dataset-config-file", str(CONFIGS / "datasets" / "image_folder.yaml")]
    options = {"CasPL": SIZES + PHASE_1, "ZeroshotCLIP": MODEL}.get(trainer, SIZES)
    return lambda: command.run([*line, *(item.format(root=root) for item in options), *more])


def zero_shot(root: Path, dataset: str, data: str, *more: str) -> Command:
    """Return the command that evaluates zero-shot CLIP on a dataset below the root."""
    return train(root, "ZeroshotCLIP", "new", "--eval-only", "DATASET.NAME", dataset, *more, data=data)


def exported(root: Path) -> Command:
    """Return the command that writes the published layout of the root's boosting prompt."""
    from trainers.cli import convert

    return lambda: convert.convert(["export", str(root / "boost"), str(root / "published")])


def imported(root: Path, source: Path | None = None) -> Command:
    """Return the command that imports it, or another published file; its figures are the tensors."""
    from trainers.cli import convert
    from trainers.method.prompt_file import load_boosting

    def command() -> Mapping:
        target = root / "imported.safetensors"
        convert.convert(["import", str(source or root / "published" / "CasPL"), str(target)])
        group, _ = load_boosting(target)
        return {name: stack.tolist() for name, stack in group.named_parameters()}

    return command


def evaluate(root: Path, folder: str) -> Command:
    """Return the family's command that evaluates a finished run."""
    from trainers.cli import train as command

    return lambda: command.run(["--eval-only", "--model-dir", str(root / folder), "DATASET.ROOT", str(root / "data")])


def protocol(root: Path, output: str, *more: str, grid: bool = False, data: str = "data") -> Command:
    """Return the few-shot command, or a grid of it with two seeds; its figures are those of all results."""
    from trainers.cli import protocols
    from trainers.experiments import result
    from trainers.experiments.protocols import PROTOCOLS

    places = ["--data", str(root / data), "--output", str(root / output)]
    options = [item.format(root=root) for item in (*SIZES, *PHASE_1, "--boost", "OPTIM.MAX_EPOCH", "2")]
    options += more

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
