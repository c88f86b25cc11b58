"""A folder in which the manual's commands run: the package as if installed, pictures, small models and one epoch."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from installation import ROOT

EPOCH = ["OPTIM.MAX_EPOCH", "1"]
SMALL = ["MODEL.BACKBONE.NAME", "shapes-student", "INPUT.SIZE", "(48,48)", "DATALOADER.NUM_WORKERS", "0"]
PHASE_1 = ["TRAINER.CASPL.TEACHER.BACKBONE", "shapes-teacher", "TRAINER.CASPL.DEPTH_TEXT", "2"]
PHASE_1 += ["TRAINER.CASPL.DEPTH_VISION", "3", "TRAINER.CASPL.PREC", "fp32"]
CLASSES = ("wavy_star", "dotted_cross", "hollow_heart")

# Runs commands one after the other in one process, which imports PyTorch once.
_DRIVER = """
import json, subprocess, sys
from caspl.__main__ import main
for words in json.load(sys.stdin):
    print("$", *words, flush=True)
    code = main(words[1:]) if words[0] == "caspl" else subprocess.run([sys.executable, *words[1:]]).returncode
    if code:
        sys.exit(f"exit code {code}: {' '.join(words)}")
"""


class Workspace:
    """The folder.

    Args:
        folder: where to create it.
    """

    def __init__(self, folder: Path):
        self.folder, self.site = folder / "work", folder / "site"
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "trainers", self.site / "caspl", ignore=skipped)
        for part in ("datasets", "configs", "third_party"):
            shutil.copytree(ROOT / part, self.site / "caspl" / part, ignore=skipped)
        self.folder.mkdir()
        for part in ("configs", "examples"):
            shutil.copytree(ROOT / part, self.folder / part, ignore=skipped)
        self.environment = os.environ | {
            "PYTHONPATH": str(self.site),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }

    def run(self, lines: Sequence[Sequence[str]], **environment: str) -> str:
        """Run command lines that begin with `caspl` or `python`; return what they print."""
        done = subprocess.run(
            [sys.executable, "-c", _DRIVER, "caspl"],
            input=json.dumps([shortened(words) for words in lines]),
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def take_photographs(self) -> None:
        """Fill photos/, unlabelled/, listed/ and picture.jpg with rendered images."""
        rendered = self.folder / "data" / "shapes" / "train"
        for name in CLASSES:
            images = sorted((rendered / name).glob("*.jpg"))
            for folder, part in (("photos", images[:10]), ("unlabelled", images[10:20])):
                (self.folder / folder / name).mkdir(parents=True)
                for image in part:
                    shutil.copy(image, self.folder / folder / name)
            shutil.copy(images[0], self.folder / "picture.jpg")
        (self.folder / "unlabelled" / "classnames.txt").write_text("\n".join([*CLASSES, ""]))
        shutil.copytree(self.folder / "photos", self.folder / "listed")
        rows = [
            f"{path.parent.name}/{path.name},{path.parent.name}" for path in (self.folder / "listed").glob("*/*.jpg")
        ]
        (self.folder / "listed" / "images.csv").write_text("\n".join(["path,classname", *sorted(rows), ""]))


def shortened(words) -> list[str]:
    """Return a command line with one epoch, and for your own images with the small models.

    Pairs of both phases come first: at the end they could follow `--boost` and be of phase 1 alone.
    """
    command, own = words[1], bool({"image_folder", "unlabelled_folder", "csv", "--root"} & set(words))
    if command == "boost":
        return [*words[:2], *((*SMALL, *PHASE_1) if own else ()), *EPOCH, *words[2:]]
    if command in ("base2new", "few-shot", "cross-dataset"):
        return [*words[:2], *((*SMALL, *PHASE_1) if own else ()), *EPOCH, *words[2:], "--boost", *EPOCH]
    return list(words)
