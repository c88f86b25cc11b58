"""One writer per folder: a lock file in the parent folder, held by the operating system."""

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

logger = logging.getLogger(__name__)

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)

_held: set[Path] = set()  # folders that this process has locked


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Hold the lock of `folder` while the block runs.

    Wait for another holder, and log who it is.

    The lock file `.<name>.lock` is next to the folder and stays there. The operating system releases it when its holder
    ends, killed or not. A process may lock a folder that it already holds. Without a lock the block runs if the file
    system has none (a warning is logged), or if an existing folder is on a read-only disk, where nothing is written.

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


def _acquired(path: Path, folder: Path) -> FileLock | None:
    """Return the held lock, or None if there cannot be one."""
    lock = FileLock(path)
    soft = isinstance(lock, SoftFileLock)  # on systems without file locks: the file's existence is the lock
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _check_regular(path)
        if not soft:
            os.close(_opened(path, os.O_CREAT))
    except OSError as error:
        if error.errno in _READ_ONLY and folder.is_dir():
            logger.info("%s is on a read-only disk: it is not locked", folder)
            return None
        raise OSError(f"cannot write to {folder.parent} ({error}): give another folder for the output") from error
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("Waiting for %s, which works on %s", _holder(path), folder)
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        logger.warning("%s cannot be locked (%s): let no other run write to it", folder, error)
        return None
    if not soft:
        with contextlib.suppress(OSError), open(_opened(path, os.O_TRUNC), "w") as file:
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    return lock


def _check_regular(path: Path) -> None:
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        raise OSError(f"{path} is not a regular file: remove it")


def _opened(path: Path, flags: int) -> int:
    """Open a lock file for writing without following a link."""
    return os.open(path, os.O_WRONLY | flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError):
        if name := path.read_text(errors="replace").strip():
            return name
    return "another run"
