"""From Dassl's loaders to those that a run reads from: this process's share of every batch."""

from collections.abc import Iterator

from torch.utils.data import DataLoader

from . import parallel
from .config import ConfigError


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


def rebuilt(loader: DataLoader, batches) -> DataLoader:
    """A loader of the same data in other batches."""
    return DataLoader(
        loader.dataset,
        batch_sampler=batches,
        num_workers=loader.num_workers,
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
