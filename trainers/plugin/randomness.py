"""Keep the state of all random number generators."""

import contextlib
import random
from collections.abc import Iterator

import numpy
import torch


def randomness() -> tuple:
    """Return the state of all random number generators."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return random.getstate(), numpy.random.get_state(), torch.get_rng_state(), devices


def set_randomness(state: tuple) -> None:
    """Restore what `randomness` returned."""
    random.setstate(state[0])
    numpy.random.set_state(state[1])
    torch.set_rng_state(state[2])
    if state[3]:
        torch.cuda.set_rng_state_all(state[3])


@contextlib.contextmanager
def same_randomness() -> Iterator[None]:
    """Restore all random number generators when the block ends."""
    state = randomness()
    try:
        yield
    finally:
        set_randomness(state)
