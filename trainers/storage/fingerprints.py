"""SHA-256 of files, cached for large ones between processes."""

import json
import os
from pathlib import Path

from .atomic import replacing, sha256

LARGE = 1 << 24  # bytes from which a digest is cached
MOST = 1000  # entries of the cache


def cache_file() -> Path:
    """Return the cache's file, below the user's folder for caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "caspl" / "fingerprints.json"


def file_fingerprint(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, from the cache if the file is large and unchanged.

    A cached digest is valid for one path, size and modification time. An unreadable or read-only cache is ignored.

    Raises:
        OSError: the file cannot be read.
    """
    path = Path(os.path.realpath(path))
    status = path.stat()
    if status.st_size < LARGE:
        return sha256(path)
    key = f"{path}\t{status.st_size}\t{status.st_mtime_ns}"
    cached = _read()
    if key not in cached:
        cached = dict(list(cached.items())[-MOST + 1 :]) | {key: sha256(path)}
        _write(cached)
    return cached[key]


def _read() -> dict[str, str]:
    try:
        content = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    valid = isinstance(content, dict) and all(isinstance(value, str) and len(value) == 64 for value in content.values())
    return content if valid else {}


def _write(content: dict[str, str]) -> None:
    try:
        with replacing(cache_file()) as aside:
            aside.write_text(json.dumps(content, indent=0), encoding="utf-8")
    except OSError:  # only a cache
        pass
