"""Random numbers that a run can be repeated with: their state as plain data, and images that depend on no order.

An augmentation is a function of (seed, image, view), a view being an epoch modulo the number of views: neither the number
of data workers nor what was drawn before matters.
"""

import contextlib
import os
import random
import zlib
from collections.abc import Iterator

import numpy as np
import torch
from dassl.data.data_manager import DatasetWrapper


def random_state() -> dict:
    """The state of Python's, NumPy's and torch's generators (all GPUs'), in numbers, tuples and tensors."""
    name, keys, *rest = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict) -> None:
    """Put the generators back to what `random_state` gave (the GPUs' only if there are as many as there were)."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if len(state.get("cuda", ())) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(state["cuda"])


@contextlib.contextmanager
def drawing_from(*numbers: int) -> Iterator[None]:
    """Inside the block, random numbers on the CPU depend on `numbers` alone; outside, nobody notices."""
    seed = zlib.crc32(" ".join(map(str, numbers)).encode())
    python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)


class SeededDataset(DatasetWrapper):
    """Dassl's dataset, whose training images are augmented as (`cfg.SEED`, `view`, index) says.

    Attributes:
        epoch: to be set ahead of each epoch, before the loader starts (its workers take a copy of it along).
        views: how many augmentations of an image there are; 0: another one in each epoch.
    """

    def __init__(self, cfg, data_source, transform=None, is_train=False):
        super().__init__(cfg, data_source, transform=transform, is_train=is_train)
        self.seed = cfg.SEED if cfg.SEED >= 0 else random.getrandbits(32)
        self.epoch, self.views = 0, 0

    @property
    def view(self) -> int:
        """Which of an image's augmentations this epoch shows."""
        return self.epoch % self.views if self.views else self.epoch

    def __getitem__(self, index: int) -> dict:
        if not self.is_train:
            return super().__getitem__(index)
        with drawing_from(self.seed, self.view, index):
            return super().__getitem__(index)


def be_deterministic() -> None:
    """Let a GPU give the same bits each time, where PyTorch can; where it cannot, it warns. Call it before any GPU work."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
