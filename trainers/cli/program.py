"""What all programs share: one error line and exit code 2 for a mistake, a clean stop for Ctrl-C and SIGTERM."""

import functools
import logging
import os
import sys
from collections.abc import Callable

from . import interrupt

_BROKEN_PIPE = 128 + 13  # as a shell reports SIGPIPE


def guarded(program: Callable[[], object]) -> int:
    """Run a program and return its exit code.

    A mistake in what was asked for is one line on stderr and exit code 2. If CASPL_TRACEBACK is set in the environment,
    the traceback is shown instead (it is always in the run's log). Ctrl-C and SIGTERM end it with 130 or 143.

    Args:
        program: returns its exit code, or anything else for 0.
    """
    show_log()
    try:
        with interrupt.unwinding():
            code = program()
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except (ValueError, OSError, KeyError, FloatingPointError) as error:
        if os.environ.get("CASPL_TRACEBACK"):
            raise
        sys.stderr.write(f"error: {_message(error)}\n")
        return 2
    except KeyboardInterrupt as stop:
        return interrupt.exit_code(stop)


class _Console(logging.Handler):
    """Prints what is logged outside of a run; a run has separate handlers."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless a run logs it or rank 0 reports it for all."""
        if not logging.getLogger().handlers and (record.levelno >= logging.ERROR or not _is_other_rank()):
            stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
            stream.write(f"{self.format(record)}\n")
            stream.flush()


def _is_other_rank() -> bool:
    """Return whether torchrun started this process as another rank than 0; no process group exists yet."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0"


def hide_information() -> None:
    """Show only warnings of this package's log on the console."""
    logging.getLogger(__package__.partition(".")[0]).setLevel(logging.WARNING)


def show_log() -> None:
    """Show this package's log on the console, information included."""
    package = logging.getLogger(__package__.partition(".")[0])
    if not any(isinstance(handler, _Console) for handler in package.handlers):
        package.addHandler(_Console(logging.INFO))
    package.setLevel(logging.INFO)


def _message(error: Exception) -> str:
    """Return an error's message in one line, without the traceback that a data worker puts around it."""
    message = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip() or repr(error)
    if "in DataLoader worker process" in message:
        return message.splitlines()[-1].partition(": ")[2]
    lines = (line.strip() for line in message.splitlines() if line.strip())
    return functools.reduce(lambda text, line: f"{text}{' ' if text.endswith((',', ':', ';')) else '; '}{line}", lines)
