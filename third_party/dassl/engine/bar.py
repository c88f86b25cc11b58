"""Progress of a run: one bar on a terminal (stderr), a log line every few seconds elsewhere."""

import datetime
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from tqdm import tqdm

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 5.0


def format_seconds(seconds: float) -> str:
    """Format seconds as h:mm:ss."""
    return str(datetime.timedelta(seconds=int(seconds)))


def _on_terminal(stream: TextIO) -> bool:
    """Return whether a stream is a terminal with room for a bar (tqdm shows nothing on one without a size)."""
    return stream.isatty() and min(os.get_terminal_size(stream.fileno())) > 0


class ProgressBar:
    """A bar over `total` steps if stderr is a terminal.

    Otherwise `line_due` tells when to log a line.

    Args:
        total: number of steps.
        title: text before the bar.
        initial: steps that an earlier run has finished.
        keep: leave the bar on the screen at the end.
    """

    def __init__(self, total: int, title: str, initial: int = 0, keep: bool = True):
        self._bar: Any = None
        self._start = self._last_line = time.monotonic()
        self.done, self.total, self._initial = initial, total, initial
        if _on_terminal(sys.stderr):
            self._bar = tqdm(total=total, desc=title, initial=initial, leave=keep, dynamic_ncols=True, file=sys.stderr)

    def advance(self, note: str = "") -> None:
        """Count one step; `note` is shown at the bar's end."""
        self.done += 1
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update()
            if self.done >= self.total:
                self._bar.close()

    def line_due(self) -> bool:
        """Return whether to log a line now: there is no bar, and the last line is a few seconds old."""
        now = time.monotonic()
        if self._bar is not None or now - self._last_line < SECONDS_BETWEEN_LINES:
            return False
        self._last_line = now
        return True

    def time_left(self) -> str:
        """Return the time until the end at the average speed so far, as h:mm:ss."""
        elapsed = time.monotonic() - self._start
        return format_seconds(elapsed / max(self.done - self._initial, 1) * (self.total - self.done))

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


def follow(iterable: Any, title: str) -> Iterator[Any]:
    """Yield the items of a sized iterable, with a bar or log lines on the way."""
    items: Iterable[Any] = iterable
    bar = ProgressBar(len(iterable), title, keep=False)
    try:
        for item in items:
            yield item
            bar.advance()
            if bar.line_due():
                logger.info("%s [%d/%d] eta %s", title, bar.done, bar.total, bar.time_left())
    finally:
        bar.close()
