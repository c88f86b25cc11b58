"""The log of a run: everything goes to `log.txt`; the console shows warnings and what is announced."""

import contextlib
import io
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

logger = logging.getLogger(__name__)

FILE_NAME = "log.txt"  # in a run's folder
_WARNINGS = "py.warnings"  # the logger of Python's warnings


def announce(message: str, *args: object) -> None:
    """Log a line that the console shows too."""
    logger.info(message, *args, extra={"console": True})


@contextlib.contextmanager
def logging_to(folder: str | Path, needed: bool = True) -> Iterator[None]:
    """Append what is logged, printed and warned about to `<folder>/log.txt` while the block runs.

    The console shows only warnings of loggers and what is announced, above any progress bar.

    Args:
        folder: the run's folder.
        needed: whether a file that cannot be written is an error; if not, the log is left out.

    Raises:
        OSError: the file cannot be written to.
    """
    root, console, level = logging.getLogger(), sys.stdout, logging.getLogger().level
    with _LogFile(Path(folder) / FILE_NAME, console, needed) as file:
        handlers = [logging.StreamHandler(file), _ConsoleHandler(console)]
        for handler in handlers:
            handler.setFormatter(_Lines())
            root.addHandler(handler)
        root.setLevel(min(level, logging.INFO) or logging.INFO)
        logging.captureWarnings(True)
        sys.stdout = file
        try:
            yield
        finally:
            sys.stdout = console
            logging.captureWarnings(False)
            root.setLevel(level)
            for handler in handlers:
                root.removeHandler(handler)


class _LogFile(io.TextIOBase):
    """A text stream to a log file that survives a full disk: results are worth more than their log."""

    def __init__(self, path: Path, console: TextIO, needed: bool = True):
        self.console = console
        self.file: TextIO | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink() or (path.exists() and not path.is_file()):
                raise OSError(f"{path}: not a regular file; expected one or none. Remove it, or give another folder")
            appending = path.is_file() and path.stat().st_size > 0
            self.file = open(path, "a", buffering=1, encoding="utf-8")
        except OSError:
            if needed:
                raise
            return
        if appending:
            self.write(f"\n===== {time.strftime('%Y-%m-%d %H:%M:%S')} =====\n")

    def write(self, text: str) -> int:
        """Write to the file, until it fails once."""
        if self.file is not None:
            try:
                self.file.write(text)
            except OSError as error:
                self._give_up()
                self.console.write(f"warning: the log ends here: {error}\n")
        return len(text)

    def _give_up(self) -> None:
        file, self.file = self.file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def close(self) -> None:
        """Close the file."""
        self._give_up()
        super().close()


class _ConsoleHandler(logging.Handler):
    """Writes announced lines and warnings above any progress bar."""

    def __init__(self, stream: TextIO):
        super().__init__()
        self.stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless it belongs in the file only."""
        warned = record.levelno >= logging.WARNING and record.name != _WARNINGS
        if warned or getattr(record, "console", False):
            with tqdm.external_write_mode(file=self.stream):
                self.stream.write(f"{self.format(record)}\n")
                self.stream.flush()


class _Lines(logging.Formatter):
    """Information as plain lines, which scripts that read logs expect; anything else with its level."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"
