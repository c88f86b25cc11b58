"""Download dataset archives from the Hugging Face repository of the field."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from .facts import REPOSITORY, REVISION
from .identity import file_sha256
from .kept_files import write_json

logger = logging.getLogger(__name__)

ENDPOINT: str | None = None  # another server, for tests (None: huggingface.co or the variable HF_ENDPOINT)


def download(archive: str, folder: Path, record: Path, sha256: str = "") -> Path:
    """Download an archive; an interrupted download resumes.

    The hash is compared with `sha256` if it is known, with the one that the server reports, and with the one recorded
    by an earlier download.

    Args:
        archive: file name in the repository.
        folder: where to save it; keep this folder to resume.
        record: JSON file that records revision and hash of the first download.
        sha256: the known hash of the file ("": unknown).

    Returns:
        the path of the file.

    Raises:
        OSError: huggingface_hub is not installed, the download failed, or the hash differs.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise OSError("huggingface_hub is not installed. Run pip install huggingface_hub") from error
    folder.mkdir(parents=True, exist_ok=True)
    try:
        info = HfApi(endpoint=ENDPOINT).model_info(REPOSITORY, revision=REVISION, files_metadata=True)
        file = next((file for file in info.siblings or () if file.rfilename == archive), None)
        if file is None:
            raise OSError(f"no {archive} in revision {REVISION}")
        _check_space(folder, file.size or 0)
        path = folder / archive
        if not path.exists():
            _resume(path, info.sha or REVISION, file.size)
    except Exception as error:  # the client raises its own and its HTTP library's exceptions
        raise OSError(f"Hugging Face {REPOSITORY}: {_one_line(error)}") from error
    reported = file.lfs.sha256 if file.lfs else ""
    _verify(path, {"known": sha256, "reported by the server": reported, f"recorded in {record}": _recorded(record)})
    return path


def _resume(path: Path, revision: str, size: int | None) -> None:
    """Download a file, starting after the bytes that an interrupted download has left in `<path>.partial`.

    `hf_hub_download` restarts from the first byte in huggingface_hub 2.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    partial = path.with_name(f"{path.name}.partial")
    with open(partial, "ab") as file:
        if size is not None and file.tell() > size:
            file.truncate(0)
        start = file.seek(0, 2)
        logger.info("Downloading %s from %s: %d of %s bytes exist", path.name, REPOSITORY, start, size)
        url = hf_hub_url(REPOSITORY, path.name, revision=revision, endpoint=ENDPOINT)
        http_get(url, file, resume_size=start, headers=build_hf_headers(), expected_size=size)
    partial.rename(path)


def _check_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if 2 * size > free:  # the archive and its content
        raise OSError(f"{2 * size / 1e9:.1f} GB are needed in {folder}, {free / 1e9:.1f} GB are free. Free some space")


def _verify(path: Path, expected: dict[str, str]) -> str:
    found = file_sha256(path)
    for origin, digest in expected.items():
        if digest and digest != found:
            path.unlink()
            raise OSError(f"{path}: SHA-256 {found}; expected {digest} ({origin}). The file was deleted: fetch again")
    return found


def write_record(record: Path, archive: Path) -> None:
    """Record revision and hash of a downloaded archive, for later comparison."""
    content = {"repository": REPOSITORY, "revision": REVISION, "file": archive.name, "sha256": file_sha256(archive)}
    write_json(record, content)


def _recorded(record: Path) -> str:
    try:
        content: Any = json.loads(record.read_text(encoding="utf-8"))
        return str(content["sha256"]) if content["revision"] == REVISION else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
