"""The loaders of a run: each process's share of every batch, the number of data workers, and the time spent waiting.

Kept images are decoded before the first epoch in the training process; forked data workers share that memory. Workers
are not persistent, because each copies the epoch's number when it starts.
"""

import multiprocessing
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, SequentialSampler

from ..config import ConfigError
from . import parallel
from .dataset import ImageDataset
from .rng import drawing_from

MOST_WORKERS = 8
SMALL = 128 * 128  # pixels of an image whose transformation takes less time than its transfer from a worker

Batches = Any  # a sized iterable of index lists: a batch sampler


def workers(wanted: int) -> int:
    """Resolve `DATALOADER.NUM_WORKERS`: -1 means one data worker per core but one, at most 8.

    Raises:
        ConfigError: it is below -1.
    """
    if wanted < -1:
        raise ConfigError(f"DATALOADER.NUM_WORKERS: {wanted}; expected 0 or more, or -1 (chosen for the machine)")
    return wanted if wanted >= 0 else min(MOST_WORKERS, parallel.cores() - 1)


def keeping(loader: DataLoader, choose: bool) -> DataLoader:
    """Return the training loader with its images kept in memory if they fit.

    Args:
        loader: the training loader.
        choose: whether the number of workers may be changed: small kept images need none.
    """
    dataset = loader.dataset
    if not isinstance(dataset, ImageDataset) or not (dataset.kept or dataset.keep()):
        return loader
    if loader.num_workers and "fork" in multiprocessing.get_all_start_methods():
        loader.multiprocessing_context = "fork"  # other start methods send the images to each worker
    if not choose:
        return loader
    pixels = sum(image.shape[0] * image.shape[1] for image in dataset.kept.values()) / len(dataset.kept)
    return rebuilt(loader, loader.batch_sampler, 0) if pixels <= SMALL else loader


class Wrapped:
    """A loader around another one of the same dataset, batch by batch.

    Args:
        loader: the other one.
    """

    def __init__(self, loader: Any):
        self.loader = loader

    @property
    def dataset(self) -> Any:
        """The loader's dataset."""
        return self.loader.dataset

    def __len__(self) -> int:
        return len(self.loader)


class TimedLoader(Wrapped):
    """Measure the time spent waiting for batches.

    On a GPU, copy each batch while the previous one is in use.

    Args:
        loader: the loader to iterate over.
        device: where the batches are needed.
        copied: the entries of a batch that are needed there; the others remain on the CPU.

    Attributes:
        waited: seconds spent waiting so far.
    """

    def __init__(self, loader: DataLoader, device: torch.device, copied: tuple[str, ...] = ("img", "label")):
        super().__init__(loader)
        self.device, self.copied, self.waited = device, copied, 0.0

    def __iter__(self) -> Iterator[dict]:
        if self.device.type == "cpu":
            yield from self._timed()
            return
        previous = None
        for batch in self._timed():
            if previous is not None:
                yield previous
            previous = {k: v.to(self.device, non_blocking=True) if k in self.copied else v for k, v in batch.items()}
        if previous is not None:
            yield previous

    def _timed(self) -> Iterator[dict]:
        start = time.perf_counter()
        batches = iter(self.loader)
        while (batch := next(batches, None)) is not None:
            self.waited += time.perf_counter() - start
            yield batch
            start = time.perf_counter()
        self.waited += time.perf_counter() - start


class ShareOfEach:
    """This process's share of every global batch.

    The shares of all ranks in order are the batch.

    Args:
        batches: the global batches of indices, the same in all processes.
    """

    def __init__(self, batches: Batches):
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            part = len(batch) // parallel.size()
            yield batch[parallel.rank() * part : (parallel.rank() + 1) * part]


class EveryNth:
    """The batches r, r + N, r + 2 N, ... of rank r of N.

    Each batch is computed as a single process would.

    Args:
        batches: the batches of indices, the same in all processes.
    """

    def __init__(self, batches: Batches):
        self.batches = batches

    def __len__(self) -> int:
        return len(range(parallel.rank(), len(self.batches), parallel.size()))

    def __iter__(self) -> Iterator[list[int]]:
        for number, batch in enumerate(self.batches):
            if number % parallel.size() == parallel.rank():
                yield batch


def rebuilt(loader: DataLoader, batches: Batches, num_workers: int | None = None) -> DataLoader:
    """Return a loader of the same data with other batches or another number of workers."""
    return DataLoader(
        loader.dataset,
        batch_sampler=batches,
        num_workers=loader.num_workers if num_workers is None else num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
    )


def share_of_training(loader: DataLoader) -> DataLoader:
    """Return a loader of this process's share of every training batch.

    Raises:
        ConfigError: a global batch cannot be divided among the processes.
    """
    if parallel.size() == 1:
        return loader
    asked, images = loader.batch_size or 0, len(loader.dataset)  # type: ignore[arg-type]
    if min(asked, images) % parallel.size():
        fewer = f", but there are only {images} training images" if images < asked else ""
        raise ConfigError(
            f"DATALOADER.TRAIN_X.BATCH_SIZE: {asked}{fewer}; expected a multiple of the {parallel.size()} processes, since "
            "it is the global batch. Change it, or start another number of processes"
        )
    return rebuilt(loader, ShareOfEach(loader.batch_sampler))


def share_of_test(loader: DataLoader | None) -> DataLoader | None:
    """Return a loader of this process's batches of an evaluation set (None for None).

    Raises:
        ConfigError: the sampler leaves images out or repeats some.
    """
    if loader is None:
        return None
    _check_complete(loader)
    return loader if parallel.size() == 1 else rebuilt(loader, EveryNth(loader.batch_sampler))


def _check_complete(loader: DataLoader) -> None:
    if isinstance(loader.sampler, SequentialSampler):
        return
    images = len(loader.dataset)  # type: ignore[arg-type]
    with drawing_from(0):
        drawn = [int(index) for index in loader.sampler]
    if sorted(drawn) != list(range(images)):
        raise ConfigError(
            f"DATALOADER.TEST.SAMPLER: {type(loader.sampler).__name__} draws {len(set(drawn))} of {images} images; "
            "expected every image once. Set it to SequentialSampler"
        )
