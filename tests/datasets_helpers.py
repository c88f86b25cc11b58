"""Shared helpers of the dataset tests: golden mini datasets, configurations, images."""

import base64
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY

from datasets import DatasetError, FewShotDataset

GOLDEN = Path(__file__).parent / "golden"
IMAGE = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")  # GIF, 1 x 1
EXPECTED = json.loads((GOLDEN / "datasets" / "expected.json").read_text())


def golden_folder(target, *names):
    """Unpack the mini datasets in the folders `names` (default: all) into `target`, which becomes a DATASET.ROOT."""
    with tarfile.open(GOLDEN / "datasets" / "mini.tar.gz") as archive:
        for member in archive:
            parts = Path(member.name).parts
            if member.isfile() and (not names or parts[1] in names):
                path = target.joinpath(*parts[1:])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.extractfile(member).read())
    return target


def kind_of(name: str) -> type[FewShotDataset]:
    """Return the dataset class `name`."""
    return DATASET_REGISTRY.get(name)


def build(name, root, shots=-1, seed=1, subsample="all", output=None):
    """Build the dataset `name` as Dassl does."""
    cfg = get_cfg_default()
    cfg.DATASET.SUBSAMPLE_CLASSES = subsample
    cfg.DATASET.NAME, cfg.DATASET.ROOT, cfg.DATASET.NUM_SHOTS, cfg.SEED = name, str(root), shots, seed
    cfg.OUTPUT_DIR = str(output or Path(root).parent / "output")
    return kind_of(name)(cfg)


def entries(items, root):
    """Return [[path relative to root, label, class name], ...] of a list of Datum, [] for None."""
    return [[os.path.relpath(i.impath, root), i.label, i.classname] for i in items or []]


def published(name):
    """Return the recorded result of the published reader of `name` with all images and classes."""
    return next(c for c in EXPECTED if c["dataset"] == name and c["shots"] < 1 and c["subsample"] == "all")


def touch(folder, *paths):
    """Create files, all of them with the same small image as content."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(IMAGE)


def move(source, target):
    """Move a file or folder; create the target's parents."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)


def fails(name, root, **more):
    """Build a dataset; return its one-line error message."""
    with pytest.raises((DatasetError, OSError)) as error:
        build(name, root, **more)
    assert "\n" not in str(error.value)
    return str(error.value)


def own_folder(parent):
    """Create class folders star and moon in train/ and test/; return their root."""
    root = parent / "own"
    touch(root, *(f"{part}/{name}/{n}.png" for part in ("train", "test") for name in ("moon", "star") for n in "123"))
    return root
