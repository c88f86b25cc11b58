"""One writer a folder: a lock file next to the folder, held by the operating system."""

import contextlib
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

logger = logging.getLogger(__name__)

_held: set[Path] = set()  # folders that this process has locked


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Hold the lock of `folder` while the block runs; wait for another holder, and log who it is.

    The lock file `.<name>.lock` is next to the folder and stays there. The operating system releases it when its holder
    ends, killed or not. A process may lock a folder that it already holds. Where the file system has no locks, a warning
    is logged instead.

    Args:
        folder: the folder, which need not exist.

    Raises:
        OSError: the lock file cannot be created, or something other than a regular file has its name.
    """
    folder = Path(os.path.abspath(folder))
    if folder in _held:
        yield
        return
    lock = _acquired(folder.with_name(f".{folder.name}.lock"), folder)
    _held.add(folder)
    try:
        yield
    finally:
        _held.discard(folder)
        if lock is not None:
            lock.release()


def _acquired(path: Path, folder: Path) -> BaseFileLock | None:
    """Return the held lock, or None if the file system has none."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
            raise OSError(f"{path} is not a regular file: remove it")
        with tempfile.TemporaryFile(dir=folder.parent):
            pass  # the folder can be written to
    except OSError as error:
        raise OSError(f"cannot write to {folder.parent} ({error}): give another folder for the output") from error
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            holder = _holder(path) or "another run"
            logger.warning("Waiting for %s, which works on %s", holder, folder)
            lock.acquire()
        _note_holder(path, lock)
    except (OSError, NotImplementedError) as error:
        logger.warning("%s cannot be locked (%s): let no other run write to it", folder, error)
        return None
    return lock


def _holder(path: Path) -> str:
    """Return the first line of a lock file; empty if it cannot be read."""
    try:
        return next(iter(path.read_text(errors="replace").splitlines()), "").strip()
    except OSError:
        return ""


def _note_holder(path: Path, lock: BaseFileLock) -> None:
    """Write the holder into its lock file, for the log of those who wait.

    Without locks of the operating system, the file's existence is the lock and its content is filelock's; on Windows, a
    locked file cannot be written to.
    """
    if not isinstance(lock, SoftFileLock):
        with contextlib.suppress(PermissionError):
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
