"""The log of a run: everything printed or logged goes to the console and to a file."""

import logging
import os
import sys
import time

from tqdm import tqdm

from .files import mkdir_if_missing

__all__ = ["Logger", "setup_logger"]


class Logger:
    """A text stream that writes to the console and to a file, line by line, above any progress bar.

    Args:
        fpath: the file, appended to; None for the console alone.
    """

    def __init__(self, fpath=None):
        self.console = sys.stdout
        self.file = None
        self._line = ""  # printed so far without a line end
        if fpath is not None:
            mkdir_if_missing(os.path.dirname(fpath))
            self.file = open(fpath, "a", buffering=1, encoding="utf-8")  # noqa: SIM115

    def write(self, text):
        """Write `text`; the console sees it when its line is complete, or at `flush`."""
        if self.file is not None:
            try:
                self.file.write(text)
            except OSError as error:  # the disk is full; what is computed is worth more than its log
                self.file = None
                self.console.write(f"No more log in the file: {error}\n")
        lines, end, self._line = (self._line + text).rpartition("\n")
        if end:
            with tqdm.external_write_mode(file=self):
                self.console.write(lines + end)
        return len(text)

    def flush(self):
        """Pass on what is held back."""
        self.console.write(self._line)
        self._line = ""
        self.console.flush()
        if self.file is not None:
            self.file.flush()

    def close(self):
        """Close the file; the console stays open."""
        if not self.console.closed:
            self.flush()
        if self.file is not None:
            self.file.close()
            self.file = None

    def __getattr__(self, name):
        return getattr(self.__dict__["console"], name)  # isatty, encoding, fileno, ...


class _Plain(logging.Formatter):
    """Information as it stands, since scripts reading logs look for whole lines; the rest with its level."""

    def format(self, record):
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname} ({record.name}): {text}"


def setup_logger(output=None):
    """Send `print` and `logging` (from INFO on) to the console and to a file. A second call undoes the first.

    Args:
        output: a folder, in which the file is `log.txt`, or a file ending in .txt or .log; None: no file. A
            log that exists is appended to.
    """
    _restore()
    fpath = output
    if output is not None and not str(output).endswith((".txt", ".log")):
        fpath = os.path.join(output, "log.txt")
    appending = fpath is not None and os.path.exists(fpath) and os.path.getsize(fpath) > 0
    stream = Logger(fpath)
    if appending:
        stream.file.write(f"\n===== {time.strftime('%Y-%m-%d %H:%M:%S')} =====\n")
    handler = _Handler(stream)
    handler.setFormatter(_Plain())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(min(root.level, logging.INFO) or logging.INFO)
    sys.stdout = stream


class _Handler(logging.StreamHandler):
    """The handler that `setup_logger` owns."""


def _restore():
    """Undo an earlier `setup_logger`."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _Handler)]:
        root.removeHandler(handler)
        if sys.stdout is handler.stream:
            sys.stdout = handler.stream.console
        handler.stream.close()
