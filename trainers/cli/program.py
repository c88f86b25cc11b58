"""What all programs share: one error line and exit code 2 for a mistake, a clean stop for Ctrl-C and SIGTERM."""

import logging
import os
import signal
import sys
from collections.abc import Callable


def guarded(program: Callable[[], object]) -> int:
    """Run a program and return its exit code.

    A mistake in what was asked for is one line on stderr and exit code 2. With CASPL_TRACEBACK set in the environment,
    the traceback is shown instead (it is always in the run's log). Ctrl-C and SIGTERM end it with 130 or 143.
    """
    show_log()
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        code = program()
        return code if isinstance(code, int) else 0
    except (ValueError, OSError, KeyError, FloatingPointError) as error:
        if os.environ.get("CASPL_TRACEBACK"):
            raise
        sys.stderr.write(f"error: {_message(error)}\n")
        return 2
    except KeyboardInterrupt as stop:
        number = stop.args[0] if stop.args else signal.SIGINT
        sys.stderr.write(
            f"stopped by {signal.Signals(number).name}: the same command resumes after the last whole epoch, and "
            "finished runs stay finished\n"
        )
        return 128 + number
    finally:
        signal.signal(signal.SIGTERM, before)


class _Console(logging.Handler):
    """Prints what is logged outside of a run; a run has handlers of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            sys.stdout.write(f"{self.format(record)}\n")
            sys.stdout.flush()


def show_log() -> None:
    """Show this package's log on the console, once."""
    package = logging.getLogger(__package__.partition(".")[0])
    if not any(isinstance(handler, _Console) for handler in package.handlers):
        package.addHandler(_Console(logging.INFO))
        package.setLevel(logging.INFO)


def _stop(number: int, frame) -> None:
    raise KeyboardInterrupt(number)


def _message(error: Exception) -> str:
    """Return the error's message, without the traceback that a data worker puts around it."""
    message = str(error.args[0] if isinstance(error, KeyError) else error).strip()
    return message.splitlines()[-1].partition(": ")[2] if "in DataLoader worker process" in message else message
