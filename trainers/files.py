"""Writing files so that whoever reads them sees the old one or the new one, never a part; one writer a folder."""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from safetensors import SafetensorError

logger = logging.getLogger(__name__)

_held: set[Path] = set()  # folders that this process has locked


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; flush it to the disk and rename it when the block ends well.

    Raises:
        OSError: the folder cannot be written to, or the disk is full; `path` is then as it was.
    """
    path, aside = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        aside = Path(name)
        os.close(handle)
        os.chmod(name, 0o666 & ~_umask())
        yield aside
        with open(aside, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(aside, path)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors report a full disk in their ways
        raise OSError(
            f"cannot write {path} ({error}): free some space, or give another folder; what was there is as it was"
        ) from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Be the only process that writes to `folder`, for the time of the block; wait for another one, and say for whom.

    The lock is the operating system's, on a hidden file beside the folder: it is gone when its holder is, killed or not.
    Inside a block, the same process may lock the same folder again. Where the file system has no locks, a warning is all.
    """
    folder = Path(os.path.abspath(folder))
    if folder in _held:
        yield
        return
    path = folder.with_name(f".{folder.name}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = _acquired(path, folder)
    except OSError as error:
        raise OSError(f"cannot write to {folder.parent} ({error}): give another folder for the output") from error
    with lock as file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        _held.add(folder)
        try:
            yield
        finally:
            _held.discard(folder)
            path.unlink(missing_ok=True)


def _acquired(path: Path, folder: Path) -> IO[str]:
    """The lock file, open and locked. One that its last holder has removed meanwhile does not count."""
    waited = False
    while True:
        file = open(path, "a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                logger.warning("%s cannot be locked (%s): let no other run write to it", folder, error)
                return file
            if not waited:
                file.seek(0)
                logger.warning("Waiting for %s, which works on %s", file.read().strip() or "another run", folder)
                waited = True
            fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()


def remove_parts(folder: Path) -> None:
    """Remove what killed writers have left half-written in a run's folder (which must be locked)."""
    for part in (*folder.glob(".*.part"), *folder.glob("*/.*.tmp")):
        part.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
