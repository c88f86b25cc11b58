"""Download datasets with torchvision and move them into the family's layout."""

import shutil
from pathlib import Path

import torchvision.datasets
from filelock import FileLock

from .facts import Download


def fetch(download: Download, folder: Path) -> list[Path]:
    """Download into a hidden folder next to `folder`, then move missing files into `folder`.

    A failed download stays in the hidden folder, where torchvision resumes it.

    Args:
        download: what torchvision downloads.
        folder: the dataset's folder.
    Returns:
        the paths that were moved.
    Raises:
        OSError: the download failed, or produced other files than expected.
    """
    hidden = folder.with_name(f".{folder.name}-download")
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.with_name(f".{folder.name}-download.lock")
    with FileLock(lock):
        moved = _fetch(download, folder, hidden)
    lock.unlink(missing_ok=True)
    return moved


def _fetch(download: Download, folder: Path, hidden: Path) -> list[Path]:
    missing = {source: folder / target for source, target in download.moves.items() if not (folder / target).exists()}
    if not missing:
        return []
    hidden.mkdir(parents=True, exist_ok=True)
    try:
        getattr(torchvision.datasets, download.torchvision)(str(hidden), download=True)
    except Exception as error:  # network errors, damaged archives, dead links: torchvision raises many types
        if not any(hidden.iterdir()):
            hidden.rmdir()
        raise OSError(f"torchvision.datasets.{download.torchvision}: download failed ({error})") from error
    for source in missing:
        if not (hidden / source).exists():
            raise OSError(
                f"torchvision.datasets.{download.torchvision}: no {source} in {hidden} after the download. Find it "
                f"there and move it to {missing[source]}"
            )
    folder.mkdir(parents=True, exist_ok=True)
    for source, target in missing.items():
        (hidden / source).rename(target)
    shutil.rmtree(hidden)
    return list(missing.values())
