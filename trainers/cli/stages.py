"""Numbered headings of a command's stages, with the time that each took."""

import contextlib
import time
from collections.abc import Iterator


class Stages:
    """Prints a heading for each stage of a command, and its duration at its end.

    Args:
        total: the number of stages.
    """

    def __init__(self, total: int):
        self.total = total
        self.number = 0

    @contextlib.contextmanager
    def next(self, title: str) -> Iterator[None]:
        """Print the heading of the next stage; print its duration when the block ends.

        Args:
            title: what the stage does.
        """
        self.number += 1
        start = time.monotonic()
        print(f"{self.number}/{self.total} {title}", flush=True)
        yield
        print(f"    took {duration(time.monotonic() - start)}", flush=True)


def duration(seconds: float) -> str:
    """Return a duration as m:ss, or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
