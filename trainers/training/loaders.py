"""From Dassl's loaders to those that a run reads from: this process's share of every batch, images decoded once where they
are small enough to keep, as many data workers as the machine has cores for, and the time that a run waits for all that.

Kept images are decoded before the first epoch, in the process that trains: data workers, which fork off it at each epoch,
see them in the same memory. They are not persistent, since each takes the epoch's number along as it starts.
"""

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from dassl.data import data_manager
from PIL import Image
from torch.utils.data import DataLoader

from ..config import ConfigError
from ..engine.memory import free_bytes
from . import parallel
from .rng import SeededDataset

logger = logging.getLogger(__name__)

MOST_WORKERS = 8
MOST_KEPT = 50_000  # images: above, looking at their sizes alone takes long
SHARE_OF_MEMORY = 0.2  # of what is free, for the kept images of all processes of this machine
SMALL = 128 * 128  # pixels of an image that is transformed faster than a worker hands it over


def cores() -> int:
    """The cores that each of this machine's processes of a run may use."""
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, ours // _processes_here())


def _processes_here() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", parallel.size())) if parallel.size() > 1 else 1


def workers(wanted: int) -> int:
    """`DATALOADER.NUM_WORKERS`, where -1 stands for one data worker a core but one, 8 at most.

    Raises:
        ConfigError: it is below -1.
    """
    if wanted < -1:
        raise ConfigError(f"DATALOADER.NUM_WORKERS is {wanted}, expected 0 or more, or -1 (chosen for the machine)")
    return wanted if wanted >= 0 else min(MOST_WORKERS, cores() - 1)


class KeepingDataset(SeededDataset):
    """A dataset that may keep its images as they are once decoded (RGB, 8 bits), before anything is done to them.

    Attributes:
        kept: by path, an image (H, W, 3); empty if none are kept.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.kept: dict[str, np.ndarray] = {}

    def keep(self) -> bool:
        """Decode all images, unless they are too many or too large; whether they are kept now.

        Raises:
            OSError: an image cannot be read.
        """
        paths = sorted({item.impath for item in self.data_source})
        if len(paths) > MOST_KEPT or not hasattr(data_manager, "read_image"):
            return False
        budget = (free_bytes(torch.device("cpu")) or 0) * SHARE_OF_MEMORY / _processes_here()
        size = sum(map(_decoded_bytes, paths))
        if size > budget:
            logger.info("Images are decoded anew each time: %.0f MB, above %.0f MB, to keep", size / 1e6, budget / 1e6)
            return False
        with ThreadPoolExecutor(cores()) as pool:  # decoding releases Python's lock
            self.kept = dict(
                zip(paths, pool.map(lambda path: np.asarray(data_manager.read_image(path)), paths), strict=True)
            )
        logger.info("%d images are kept decoded (%.1f MB of %.0f MB)", len(paths), size / 1e6, budget / 1e6)
        return True

    def __getitem__(self, index: int) -> dict:
        if not self.kept:
            return super().__getitem__(index)
        with _reading_from(self.kept):
            return super().__getitem__(index)


def _decoded_bytes(path: str) -> int:
    """What an image takes once it is decoded, by its header; 0 if that cannot be read: reading it all will say why."""
    try:
        with Image.open(path) as image:
            return 3 * image.width * image.height
    except Exception:  # Pillow reports what is broken in every imaginable way
        return 0


@contextlib.contextmanager
def _reading_from(kept: dict[str, np.ndarray]) -> Iterator[None]:
    """Inside the block, Dassl's dataset gets copies of kept images instead of reading files (a loader reads in one thread)."""
    read = data_manager.read_image
    data_manager.read_image = lambda path: Image.fromarray(kept[path])
    try:
        yield
    finally:
        data_manager.read_image = read


def keeping(loader: DataLoader, choose: bool) -> DataLoader:
    """The training loader, its images kept where they are small enough.

    Args:
        choose: whether the number of workers is for us to choose: small images need none.
    """
    dataset = loader.dataset
    if not isinstance(dataset, KeepingDataset) or not (dataset.kept or dataset.keep()):
        return loader
    if loader.num_workers:
        loader.multiprocessing_context = "fork"  # where another is the default, the images would be sent to each worker
    if not choose:
        return loader
    pixels = sum(image.shape[0] * image.shape[1] for image in dataset.kept.values()) / len(dataset.kept)
    return rebuilt(loader, loader.batch_sampler, 0) if pixels <= SMALL else loader


class Watched:
    """A loader that says how long it was waited for, and that copies each batch to a GPU while the one before it is used.

    Attributes:
        waited: seconds.
    """

    def __init__(self, loader: DataLoader, device: torch.device):
        self.loader, self.device, self.waited = loader, device, 0.0

    @property
    def dataset(self):
        """The loader's."""
        return self.loader.dataset

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict]:
        ahead = None
        for batch in self._timed():
            if self.device.type != "cuda":
                yield batch
                continue
            if ahead is not None:
                yield ahead
            ahead = {k: v.to(self.device, non_blocking=True) if torch.is_tensor(v) else v for k, v in batch.items()}
        if ahead is not None:
            yield ahead

    def _timed(self) -> Iterator[dict]:
        start = time.perf_counter()
        batches = iter(self.loader)
        while (batch := next(batches, None)) is not None:
            self.waited += time.perf_counter() - start
            yield batch
            start = time.perf_counter()
        self.waited += time.perf_counter() - start


class ShareOfEach:
    """Of every global batch, the part of this process: the parts of all processes, in their order, are the batch.

    Args:
        batches: the global batches of indices, the same on all processes.
    """

    def __init__(self, batches):
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            part = len(batch) // parallel.size()
            yield batch[parallel.rank() * part : (parallel.rank() + 1) * part]


class EveryNth:
    """Of N processes, number r takes the batches r, r + N, r + 2 N ...: each batch is computed as one process would."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self) -> int:
        return len(range(parallel.rank(), len(self.batches), parallel.size()))

    def __iter__(self) -> Iterator[list[int]]:
        for number, batch in enumerate(self.batches):
            if number % parallel.size() == parallel.rank():
                yield batch


def rebuilt(loader: DataLoader, batches, num_workers: int | None = None) -> DataLoader:
    """A loader of the same data in other batches, or with another number of workers."""
    return DataLoader(
        loader.dataset,
        batch_sampler=batches,
        num_workers=loader.num_workers if num_workers is None else num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
    )


def share_of_training(loader: DataLoader) -> DataLoader:
    """This process's part of every training batch.

    Raises:
        ConfigError: a global batch cannot be divided among the processes.
    """
    if parallel.size() == 1:
        return loader
    batch = min(loader.batch_size, len(loader.dataset))
    if batch % parallel.size():
        what = f"DATALOADER.TRAIN_X.BATCH_SIZE is {loader.batch_size}"
        if batch < loader.batch_size:
            what = f"there are {batch} training images, fewer than DATALOADER.TRAIN_X.BATCH_SIZE ({loader.batch_size})"
        raise ConfigError(
            f"{what}, which cannot be divided among {parallel.size()} processes: it is the global batch, so make it a "
            f"multiple of {parallel.size()}, or start another number of processes"
        )
    return rebuilt(loader, ShareOfEach(loader.batch_sampler))


def share_of_test(loader: DataLoader | None) -> DataLoader | None:
    """This process's batches of a test set (None of none)."""
    return loader if loader is None or parallel.size() == 1 else rebuilt(loader, EveryNth(loader.batch_sampler))
