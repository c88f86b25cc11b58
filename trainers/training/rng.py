"""Random number generators: their state as plain data, and draws that depend on given numbers only."""

import contextlib
import os
import random
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def get_rng_state() -> dict:
    """Return the state of Python's, NumPy's and torch's generators (all GPUs').

    It consists of numbers, tuples and tensors.
    """
    name, keys, *rest = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: dict) -> None:
    """Restore what `get_rng_state` returned.

    The GPUs' generators are restored only if the number of GPUs is the same.
    """
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if len(state.get("cuda", ())) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(state["cuda"])


@contextlib.contextmanager
def drawing_from(*numbers: int) -> Iterator[None]:
    """Seed the CPU's generators from `numbers` while the block runs.

    Their state is restored afterwards.
    """
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


def be_deterministic() -> None:
    """Make GPU results reproducible where PyTorch can, with a warning where it cannot.

    Call it before any GPU work.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
