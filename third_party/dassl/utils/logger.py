"""The log of a run: printed text and log records go to the console and to a file."""

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm


class Logger:
    """A text stream that writes to the console and to a file, line by line, above any progress bar.

    Args:
        fpath: the file, appended to; None for the console alone.
    """

    def __init__(self, fpath: str | os.PathLike[str] | None = None):
        self.console = sys.stdout
        self.file: TextIO | None = None
        self._line = ""  # printed text without a line end
        if fpath is not None:
            Path(fpath).parent.mkdir(parents=True, exist_ok=True)
            self.file = open(fpath, "a", buffering=1, encoding="utf-8")

    def write(self, text: str) -> int:
        """Write text; the console shows it when its line is complete, or at `flush`."""
        if self.file is not None:
            try:
                self.file.write(text)
            except OSError as error:  # a full disk must not end the run
                self.file = None
                self.console.write(f"The log file is no longer written: {error}\n")
        lines, end, self._line = (self._line + text).rpartition("\n")
        if end:
            with tqdm.external_write_mode(file=self):
                self.console.write(lines + end)
        return len(text)

    def flush(self) -> None:
        """Write buffered text."""
        self.console.write(self._line)
        self._line = ""
        self.console.flush()
        if self.file is not None:
            self.file.flush()

    def close(self) -> None:
        """Close the file; the console remains open."""
        if not self.console.closed:
            self.flush()
        if self.file is not None:
            self.file.close()
            self.file = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["console"], name)  # isatty, encoding, fileno, ...


class _Plain(logging.Formatter):
    """Format information without a prefix, since scripts parse whole log lines; warnings get their level."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname} ({record.name}): {text}"


def setup_logger(output: str | os.PathLike[str] | None = None) -> None:
    """Send printed text and log records from INFO to the console and to a file.

    A second call undoes the first.

    Args:
        output: a folder, in which the file is `log.txt`, or a file ending in .txt or .log; None: no file. An
            existing log is appended to.
    """
    _restore()
    fpath = None if output is None else Path(output)
    if fpath is not None and fpath.suffix not in (".txt", ".log"):
        fpath /= "log.txt"
    appending = fpath is not None and fpath.is_file() and fpath.stat().st_size > 0
    stream = Logger(fpath)
    if appending and stream.file is not None:
        stream.file.write(f"\n===== {time.strftime('%Y-%m-%d %H:%M:%S')} =====\n")
    handler = _Handler(stream)
    handler.setFormatter(_Plain())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(min(root.level, logging.INFO) or logging.INFO)
    sys.stdout = stream  # type: ignore[assignment]


class _Handler(logging.StreamHandler):
    """The handler that `setup_logger` owns."""


def _restore() -> None:
    """Undo an earlier `setup_logger`."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _Handler)]:
        root.removeHandler(handler)
        if sys.stdout is handler.stream:
            sys.stdout = handler.stream.console
        handler.stream.close()
