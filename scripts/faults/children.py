"""Commands in forked children, which start without imports; their outcome is classified."""

import faulthandler
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT = 300  # seconds of wall-clock time until a child counts as hanging
BOMB = 120  # the same, of a child that gets a bomb

OUTCOMES = ("same", "rejected", "differs", "silent", "executed", "traceback", "hang", "message")
BAD = OUTCOMES[2:]


@dataclass(frozen=True)
class Case:
    """What happened to one case.

    Attributes:
        kind: what was tried.
        outcome: one of `OUTCOMES`. "message" is a rejection that is not one line, or does not name the file or the key.
        text: what is printed if the outcome is bad.
        kills: number of processes that were killed on purpose.
    """

    kind: str
    outcome: str
    text: str
    kills: int = 0


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        code: exit code, negative for a signal; None if it was killed because it did not end.
        figures: what its command returned; None if it returned nothing.
        text: what it wrote to stdout and stderr.
    """

    code: int | None
    figures: dict | None
    text: str

    @property
    def error(self) -> str:
        """The error line, if there is one, nothing follows it, and the exit code is 2; else empty."""
        lines = [line for line in self.text.splitlines() if line.strip()]
        errors = [line for line in lines if "error: " in line]
        return errors[0] if self.code == 2 and len(errors) == 1 and lines[-1] == errors[0] else ""

    def outcome(self, expected: object, names: Sequence[str] | None = None) -> str:
        """Return one of `OUTCOMES`.

        Args:
            expected: the figures of the intact files; None if only a rejection is right.
            names: a rejection must contain one of them; None if a rejection is wrong.
        """
        if self.code is None:
            return "hang"
        if self.code not in (0, 2) or "Traceback" in self.text:
            return "traceback"
        if self.code == 0:
            if expected is None:
                return "silent"
            return "same" if self.figures == expected else "differs"
        if names is None:
            return "differs"
        return "rejected" if any(name in self.error for name in names) else "message"


def run(
    work: Callable[[], object], folder: Path, before: Callable[[], None] | None = None, limit: float = LIMIT
) -> Ended:
    """Run a command in a child.

    Args:
        work: returns the command's figures, a mapping, or None.
        folder: an existing folder for its output.
        before: called in the child first, for example to arrange its death.
        limit: seconds until it is killed and counts as hanging.
    """
    from trainers.cli.program import guarded

    log, result = folder / "child.txt", folder / "child.json"
    result.unlink(missing_ok=True)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            faulthandler.register(signal.SIGUSR1)
            if before is not None:
                before()
            code = guarded(lambda: _kept(work, result))
        except SystemExit as error:  # argparse
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    code = _wait(pid, limit)
    text = log.read_text(errors="replace") if log.is_file() else ""
    figures = json.loads(result.read_text()) if result.is_file() and code == 0 else None
    return Ended(code, figures, text)


def _kept(work: Callable[[], object], path: Path) -> None:
    figures = work()
    path.write_text(json.dumps(dict(figures) if figures is not None else None))  # type: ignore[call-overload]


def _wait(pid: int, limit: float) -> int | None:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            _end_group(pid)
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGUSR1)  # it writes where it hangs
    time.sleep(1)
    _end_group(pid)
    os.waitpid(pid, 0)
    return None


def _end_group(pid: int) -> None:
    """Kill the child's process group: its data workers and jobs."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def dies_after(seconds: float) -> Callable[[], None]:
    """Return a function that lets its process die after some time on the processor."""

    def arrange() -> None:
        signal.signal(signal.SIGPROF, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_PROF, seconds)

    return arrange


def dies_at_rename(count: int, before: bool) -> Callable[[], None]:
    """Return a function that lets its process die at its `count`-th renaming of a file, just before or after it."""

    def arrange() -> None:
        left, replace = [count], os.replace

        def renaming(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0 and before:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*args, **kwargs)
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = renaming

    return arrange
