"""Atomic writes: a reader sees the old file or the new one, never a part of it."""

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder.

    After the block, flush it to the disk and rename it to `path`.

    Args:
        path: the file to create or replace; its folder is created.

    Raises:
        OSError: `path` is not a regular file (a link, a pipe, a device), its folder cannot be written to, or the disk is
            full. `path` is unchanged then.
    """
    path, aside = Path(path), None
    check_replaceable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        aside = Path(name)
        os.close(handle)
        os.chmod(name, 0o666 & ~_umask())
        yield aside
        with open(aside, "r+b") as stream:
            os.fsync(stream.fileno())
        os.replace(aside, path)
    except (
        OSError,
        RuntimeError,
        SafetensorError,
    ) as error:  # torch and safetensors report a full disk in their own ways
        raise OSError(
            f"cannot write {path} ({error}): free some space, or give another folder; an existing file is unchanged"
        ) from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


def check_replaceable(path: Path) -> None:
    """Raise `OSError` if something other than a regular file is located at `path`."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:  # it does not exist, or its folder cannot be read, which writing reports
        return
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe"}
        raise OSError(
            f"{path}: {kinds.get(stat.S_IFMT(mode), 'a device or socket')}; expected a regular file or none. Remove it, or "
            "give another path"
        )


def remove_parts(folder: Path) -> None:
    """Remove the temporary files of killed writers from a run's folder, which must be locked."""
    for pattern in (".*.part", "*/.*.part", "*/.*.tmp"):
        for part in folder.glob(pattern):
            part.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
