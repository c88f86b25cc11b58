"""Image features, computed once for each image and view and kept in a file for later epochs and runs.

`<folder>/<key>.features` is memory-mapped: a header with the key, then one row for each image and view, a checksum and E
numbers. The key is a hash of everything that determines the features; `<folder>/<key>.json` documents it.

A row without its checksum counts as missing, so a process that is killed while it writes loses that row only. The first
value written to a row is final and every process uses what the file holds: runs that fill a cache, read it, share it or
resume after a kill compute the same bits. Processes without write permission use the existing rows.
"""

import contextlib
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from ..storage.atomic import check_replaceable, replacing

logger = logging.getLogger(__name__)

FORMAT = 1  # of the file; part of the key
_HEADER = 128  # bytes


class CacheError(OSError):
    """A cache that cannot be written, or a file that is not the expected cache."""


def described_images(paths: Sequence[str], root: str) -> str:
    """Return the SHA-256 of a list of images.

    It covers their order, paths below `root`, sizes and modification times.

    The contents are not read, which would be 140 GB before every run on ImageNet. A copy with other times gets a
    separate cache.

    Args:
        paths: the images.
        root: the folder that their paths are relative to.

    Raises:
        CacheError: an image does not exist.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = os.stat(path)
        except OSError as error:
            raise CacheError(f"image {path} cannot be read ({error}). Check DATASET.ROOT") from error
        line = [os.path.relpath(path, root), status.st_size, status.st_mtime_ns]
        digest.update((json.dumps(line) + "\n").encode())
    return digest.hexdigest()


class FeatureCache:
    """A file of features of N images in V views.

    Args:
        folder: the folder of the file; created if it is missing.
        settings: everything that determines the features, as JSON values.
        images: N.
        views: V.
        width: E, the width of a feature.
        dtype: of the features in the file.

    Raises:
        CacheError: the folder cannot be written to, the disk is full, or the file is truncated or something else.

    Attributes:
        title: what error messages call it.
        option: the configuration key of its folder.
    """

    title = "feature cache"
    option = "the option with its folder"

    def __init__(
        self,
        folder: str | Path,
        settings: dict,
        images: int,
        views: int,
        width: int,
        dtype: torch.dtype = torch.float16,
    ):
        settings = {**settings, "format": FORMAT, "images": images, "views": views, "width": width}
        text = json.dumps(settings, indent=1, sort_keys=True)
        self.key = hashlib.sha256(text.encode()).hexdigest()
        self.path = Path(folder) / f"{self.key[:32]}.features"
        self.dtype = dtype
        row = np.dtype([("mark", "<u4"), ("features", "u1", width * dtype.itemsize)])
        header = f"CasPL {self.title} {FORMAT}\n{self.key}\n".encode().ljust(_HEADER, b"\0")
        size = _HEADER + images * views * row.itemsize
        try:
            self.read_only = self.path.exists() and not os.access(self.path, os.W_OK)
            if not self.read_only:
                self._make(text, header, size)
            self._check(header, size)
            self.rows = np.memmap(
                self.path, row, "r" if self.read_only else "r+", offset=_HEADER, shape=(images, views)
            )
        except CacheError:
            raise
        except OSError as error:
            raise CacheError(
                f"the {self.title} {self.path} cannot be written ({error}): it takes {size / 2**20:,.0f} MiB. Free some "
                f"space, set {self.option} to another folder, or leave it empty"
            ) from error
        logger.info(
            "%s %s: %s images x %d views, %.0f MiB",
            *(self.title.capitalize(), self.path, f"{images:,}", views, size / 2**20),
        )

    def _make(self, text: str, header: bytes, size: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if not self.path.exists():
                for part in self.path.parent.glob(f".{self.path.stem}.*.part"):  # of a killed process
                    part.unlink(missing_ok=True)
                with replacing(self.path.with_suffix(".json")) as aside:
                    aside.write_text(text + "\n")
                _create(self.path, header, size)

    def _check(self, header: bytes, size: int) -> None:
        with open(self.path, "rb") as file:
            found, length = file.read(_HEADER), os.fstat(file.fileno()).st_size
        if found != header:
            raise CacheError(f"{self.path} is not the {self.title} that its name denotes. Remove it")
        if length != size:
            raise CacheError(f"the {self.title} {self.path} is damaged: {length} bytes; expected {size}. Remove it")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude other processes from creating the file or writing rows while the block runs."""
        lock = self.path.with_suffix(".lock")
        check_replaceable(lock)  # some versions of filelock follow a link, and empty the file
        with FileLock(lock):
            yield

    def has(self, index: np.ndarray, view: int) -> bool:
        """Return whether the file holds the features of all these images in a view."""
        return all(map(_whole, self.rows[index, view]))

    def complete(self, view: int = 0) -> bool:
        """Return whether the file holds the features of all images in a view."""
        return all(map(_whole, self.rows[:, view]))

    def features(self, index: Tensor, view: int, compute: Callable[[], Tensor]) -> Tensor:
        """Return the features (B, E) of a batch, on the CPU, in the dtype of the file.

        If one is missing, `compute` is called for the whole batch: the last bits of a feature may depend on its batch,
        and a resumed run must find the same bits.

        Args:
            index: (B,), the images' indices, on the CPU.
            view: the view's index.
            compute: returns the features (B, E).

        Raises:
            CacheError: a feature is missing and the file is read-only.
        """
        places = index.numpy()
        if not self.has(places, view):
            if self.read_only:
                raise CacheError(
                    f"the {self.title} {self.path} is read-only and lacks images of view {view}. Fill it with a run that "
                    f"has write permission, set {self.option} to another folder, or leave it empty"
                )
            fresh = compute().detach().to("cpu", self.dtype).contiguous().view(torch.uint8).numpy()
            with self._locked():
                self._write(places, view, fresh)
        return torch.from_numpy(self.rows["features"][places, view]).view(self.dtype)

    def _write(self, places: np.ndarray, view: int, fresh: np.ndarray) -> None:
        for place, features in zip(places, fresh, strict=True):
            if not _whole(self.rows[place, view]):
                self.rows["features"][place, view] = features
                self.rows["mark"][place, view] = _mark(features)


def on_device(features: Tensor, device: torch.device) -> Tensor:
    """Copy features from the CPU to a device, without waiting for a GPU."""
    if device.type == "cuda":
        features = features.pin_memory()
    return features.to(device, non_blocking=True)


def _mark(features: np.ndarray) -> int:
    """Return the checksum of a row; never 0, which marks empty rows."""
    return zlib.crc32(features.tobytes()) or 1


def _whole(row: np.void) -> bool:
    return row["mark"] != 0 and row["mark"] == _mark(row["features"])


def _create(path: Path, header: bytes, size: int) -> None:
    """Write an empty cache. Where the system can, its space is allocated now: later, a full disk kills the process."""
    with replacing(path) as aside:
        with open(aside, "r+b") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            file.write(header)
