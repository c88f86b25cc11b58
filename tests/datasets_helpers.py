"""What the dataset tests share: the golden mini datasets, configurations, images."""

import json
import os
import shutil
import tarfile
from pathlib import Path

from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY

import datasets  # noqa: F401  (registers them)

GOLDEN = Path(__file__).parent / "golden"
EXPECTED = json.loads((GOLDEN / "datasets" / "expected.json").read_text())


def golden_folder(target, *names):
    """Unpack the mini datasets in the folders `names` into `target`, which becomes a DATASET.ROOT."""
    with tarfile.open(GOLDEN / "datasets" / "mini.tar.gz") as archive:
        for member in archive:
            parts = Path(member.name).parts
            if member.isfile() and (not names or parts[1] in names):
                path = target.joinpath(*parts[1:])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.extractfile(member).read())
    return target


def build(name, root, shots=-1, seed=1, subsample="all", output=None):
    """The dataset `name`, built as Dassl builds it."""
    cfg = get_cfg_default()
    cfg.DATASET.SUBSAMPLE_CLASSES = subsample
    cfg.DATASET.NAME, cfg.DATASET.ROOT, cfg.DATASET.NUM_SHOTS, cfg.SEED = name, str(root), shots, seed
    cfg.OUTPUT_DIR = str(output or Path(root).parent / "output")
    return DATASET_REGISTRY.get(name)(cfg)


def entries(items, root):
    """[[path relative to root, label, class name], ...] of a list of Datum, or [] of None."""
    return [[os.path.relpath(i.impath, root), i.label, i.classname] for i in items or []]


def published(name):
    """What the published reader of `name` returns with all images and all classes."""
    return next(c for c in EXPECTED if c["dataset"] == name and c["shots"] < 1 and c["subsample"] == "all")


def touch(folder, *paths):
    """Empty files; readers look at names only."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


def move(source, target):
    """Move a file or folder, with the target's parents made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)
