"""Digests that identify files and the data of a dataset."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from dassl.data.datasets import DatasetBase, Datum


def fingerprint(dataset: DatasetBase) -> str:
    """Return the SHA-256 digest of a dataset's class names, images (paths, sizes, labels) and split.

    For readers of this package, the digest covers all images and classes, before few-shot sampling and the selection of
    base or new classes; it does not change if the data are moved. For other Dassl datasets it covers the built lists.
    """
    stored = getattr(dataset, "data_fingerprint", "")
    if stored:
        return stored
    parts = {"train": dataset.train_x, "val": dataset.val, "test": dataset.test}
    return fingerprint_items(parts, dataset.dataset_dir or os.curdir)


def fingerprint_items(parts: Mapping[str, Sequence[Datum] | None], root: str | os.PathLike[str]) -> str:
    """Return the SHA-256 digest of lists of images, in their order, which determines few-shot draws.

    Args:
        parts: {"train": list of Datum, ...}.
        root: the folder that paths are relative to; images outside are identified by their absolute paths.
    """
    prefix = os.path.join(os.path.abspath(root), "")
    digest = hashlib.sha256()
    first_use: dict[int, str] = {}
    for part, items in parts.items():
        if items is None:
            continue
        same = first_use.setdefault(id(items), part)
        digest.update(f"{part}\t{same}\t{len(items)}\n".encode())
        for item in items if same == part else ():
            path = item.impath.removeprefix(prefix).replace(os.sep, "/")
            line = f"{item.label}\t{item.classname}\t{path}\t{_size(item.impath)}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
