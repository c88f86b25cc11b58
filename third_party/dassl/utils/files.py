"""Files and folders."""

import json
import logging
import os
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def mkdir_if_missing(dirname: str | os.PathLike[str]) -> None:
    """Create a folder and its parents; a no-op if it exists or `dirname` is empty."""
    if dirname:
        os.makedirs(dirname, exist_ok=True)


def check_isfile(fpath: str | os.PathLike[str]) -> bool:
    """Return whether a path is a file; log a warning if it is not."""
    found = os.path.isfile(fpath)
    if not found:
        logger.warning('No file at "%s"', fpath)
    return found


def listdir_nohidden(path: str | os.PathLike[str], sort: bool = False) -> list[str]:
    """Return the names in a folder that do not start with a dot."""
    names = [name for name in os.listdir(path) if not name.startswith(".")]
    return sorted(names) if sort else names


def describe_folder(path: str | os.PathLike[str], limit: int = 10) -> str:
    """Return a clause for an error message that lists at most `limit` names in a folder."""
    path = path or "."
    if not os.path.isdir(path):
        return f"the folder {path} does not exist"
    names = listdir_nohidden(path, sort=True)
    if not names:
        return f"the folder {path} is empty"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{path} contains {', '.join(names[:limit])}{more}"


def read_json(fpath: str | os.PathLike[str]) -> Any:
    """Return the content of a JSON file."""
    return json.loads(Path(fpath).read_text(encoding="utf-8"))


def write_json(obj: Any, fpath: str | os.PathLike[str]) -> None:
    """Write indented JSON, creating the folder.

    Nothing is written if `obj` cannot be converted.
    """
    text = json.dumps(obj, indent=4, separators=(",", ": "))
    mkdir_if_missing(os.path.dirname(fpath))
    Path(fpath).write_text(text, encoding="utf-8")
