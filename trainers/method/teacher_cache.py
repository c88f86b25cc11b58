"""The teacher's image features, computed once for each (image, view) and kept in a file for later epochs and runs.

`<folder>/<key>.features` is memory-mapped: a header with the key, then for each image and view a row of a checksum and E
float16 numbers. The key is a hash of everything that determines the features, which `<folder>/<key>.json` has in words.

A row without its right checksum is not there yet, so whoever is killed amid writing has lost that row and nothing else. The
first value that gets into a row stays, and everybody goes on with what the file says: runs that fill a cache, read it,
share it or were killed and go on have the same bits. Who may only read the file uses what is there.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..storage.atomic import replacing

logger = logging.getLogger(__name__)

FORMAT = 1  # of the file; part of the key
_HEADER = 128  # bytes


class CacheError(OSError):
    """A cache that cannot be written, or a file that is not the cache it is named for."""


def described_images(paths: Sequence[str], root: str) -> str:
    """SHA-256 of a list of images: their order, paths below `root`, sizes and times of modification.

    Not of their contents: for ImageNet that would be 140 GB to read ahead of every run. A copy with other times merely
    gets a cache of its own.

    Raises:
        CacheError: an image is not there.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = os.stat(path)
        except OSError as error:
            raise CacheError(f"image {path} cannot be looked at ({error}): mend DATASET.ROOT") from error
        line = [os.path.relpath(path, root), status.st_size, status.st_mtime_ns]
        digest.update((json.dumps(line) + "\n").encode())
    return digest.hexdigest()


class TeacherCache:
    """Features of `images` x `views`.

    Args:
        folder: where the file is, or will be.
        settings: everything that determines the features, as JSON has it.
        images, views, width: N, V and E.

    Raises:
        CacheError: the folder cannot be written to, the disk is full, or the file is truncated or something else.
    """

    def __init__(self, folder: str | Path, settings: dict, images: int, views: int, width: int):
        settings = {**settings, "format": FORMAT, "images": images, "views": views, "width": width}
        text = json.dumps(settings, indent=1, sort_keys=True)
        self.key = hashlib.sha256(text.encode()).hexdigest()
        self.path = Path(folder) / f"{self.key[:32]}.features"
        self._lock = self.path.with_suffix(".lock")
        row = np.dtype([("mark", "<u4"), ("features", "<f2", width)])
        header = f"CasPL teacher cache {FORMAT}\n{self.key}\n".encode().ljust(_HEADER, b"\0")
        size = _HEADER + images * views * row.itemsize
        try:
            self.read_only = self.path.exists() and not os.access(self.path, os.W_OK)
            if not self.read_only:
                self._make(text, header, size)
            _check(self.path, header, size)
            self.rows = np.memmap(
                self.path, row, "r" if self.read_only else "r+", offset=_HEADER, shape=(images, views)
            )
        except CacheError:
            raise
        except OSError as error:
            raise CacheError(
                f"the teacher cache {self.path} cannot be written ({error}): it takes {size / 2**20:,.0f} MiB; free some "
                "space, give another folder as TRAINER.CASPL.TEACHER.CACHE, or none"
            ) from error
        logger.info("Teacher cache %s: %s images x %d views, %.0f MiB", self.path, f"{images:,}", views, size / 2**20)

    def _make(self, text: str, header: bytes, size: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._alone():
            if not self.path.exists():
                with replacing(self.path.with_suffix(".json")) as aside:
                    aside.write_text(text + "\n")
                _create(self.path, header, size)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Be the only one that creates the file or writes rows."""
        with open(self._lock, "a", encoding="utf-8") as file:  # left where it is: others may be waiting for it
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def features(self, index: Tensor, view: int, compute: Callable[[], Tensor]) -> Tensor:
        """The features (B, E) in float32 of a batch, on the CPU.

        Where one is missing, `compute` is called for the whole batch: its last bits may depend on who is in it, and a
        run that goes on must find what it would have found.

        Args:
            index: numbers (B,) of the images; view: of the view; compute: gives the features (B, E).

        Raises:
            CacheError: one is missing, and the file may only be read.
        """
        places = index.cpu().numpy()
        found = self.rows[places, view]
        if not all(map(_whole, found)):
            if self.read_only:
                raise CacheError(
                    f"the teacher cache {self.path} may only be read and has not all images of view {view}: let a run fill "
                    "it that may write, or give another folder as TRAINER.CASPL.TEACHER.CACHE, or none"
                )
            fresh = compute().detach().to("cpu", torch.float16).numpy()
            with self._alone():
                self._write(places, view, fresh)
            found = self.rows[places, view]
        return torch.from_numpy(found["features"].astype(np.float32))

    def _write(self, places: np.ndarray, view: int, fresh: np.ndarray) -> None:
        for place, features in zip(places, fresh, strict=True):
            if not _whole(self.rows[place, view]):
                self.rows["features"][place, view] = features
                self.rows["mark"][place, view] = _mark(features)


def _mark(features: np.ndarray) -> int:
    """The checksum of a row; never 0, which is what stands in rows that nobody has written."""
    return zlib.crc32(features.tobytes()) or 1


def _whole(row: np.void) -> bool:
    return row["mark"] != 0 and row["mark"] == _mark(row["features"])


def _create(path: Path, header: bytes, size: int) -> None:
    """Write an empty cache, whose space on the disk is taken at once: a full disk could not be reported later."""
    with replacing(path) as aside:
        with open(aside, "r+b") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:  # macOS has none
                file.truncate(size)
            file.write(header)


def _check(path: Path, header: bytes, size: int) -> None:
    with open(path, "rb") as file:
        found, length = file.read(_HEADER), os.fstat(file.fileno()).st_size
    if found != header:
        raise CacheError(f"{path} is no teacher cache, or one for something else: remove it")
    if length != size:
        raise CacheError(f"the teacher cache {path} has {length} bytes, expected {size}: it is damaged, remove it")
