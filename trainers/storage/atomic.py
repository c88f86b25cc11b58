"""Atomic writes: a reader sees the old file or the new one, never a part of it."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError


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
