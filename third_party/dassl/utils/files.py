"""Files and folders. What another step reads is written aside, synced and renamed: whole, or not there."""

import json
import logging
import os
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "atomic_write",
    "check_isfile",
    "describe_folder",
    "listdir_nohidden",
    "mkdir_if_missing",
    "read_json",
    "write_json",
]

logger = logging.getLogger(__name__)


def mkdir_if_missing(dirname):
    """Create folder `dirname` and its parents; nothing happens if it exists or `dirname` is empty."""
    if dirname:
        os.makedirs(dirname, exist_ok=True)


def check_isfile(fpath):
    """Whether `fpath` is a file; a warning is logged if not."""
    found = os.path.isfile(fpath)
    if not found:
        logger.warning('No file at "%s"', fpath)
    return found


def listdir_nohidden(path, sort=False):
    """Names in folder `path` that do not start with a dot."""
    names = [name for name in os.listdir(path) if not name.startswith(".")]
    return sorted(names) if sort else names


def describe_folder(path, limit=10):
    """What is in folder `path`, in words, for an error."""
    path = path or "."
    if not os.path.isdir(path):
        return f"the folder {path} does not exist"
    names = listdir_nohidden(path, sort=True)
    if not names:
        return f"the folder {path} is empty"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{path} has {', '.join(names[:limit])}{more}"


@contextmanager
def atomic_write(path, mode="w"):
    """A file to write in, which takes the name `path` once the block is left without an error.

    Until then it stands beside `path`, hidden. A failed block removes it and leaves `path` as it was.
    """
    path = Path(path)
    mkdir_if_missing(path.parent)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def read_json(fpath):
    """The object in a JSON file."""
    with open(fpath, encoding="utf-8") as file:
        return json.load(file)


def write_json(obj, fpath):
    """Write `obj` as indented JSON, creating the folder."""
    with atomic_write(fpath) as file:
        json.dump(obj, file, indent=4, separators=(",", ": "))
