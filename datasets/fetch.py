"""Download datasets and move them into the family's layout: from Hugging Face, else by torchvision."""

import logging
import shutil
from pathlib import Path

import torchvision.datasets

from . import hub
from .archives import unpack_zip
from .base import FewShotDataset
from .facts import Download
from .layouts import has_layout, paths_of_layout

logger = logging.getLogger(__name__)


def fetch(kind: type[FewShotDataset], data: Path) -> list[Path]:
    """Download what is missing of a dataset; existing files are kept.

    A failed download stays in a hidden folder next to the dataset's, from which the next call resumes. Callers make sure
    that one process at a time fetches a dataset.

    Args:
        kind: the dataset's class.
        data: `DATASET.ROOT`.

    Returns:
        the paths that were added to the dataset's folder; empty if everything exists.

    Raises:
        OSError: no source works; the message names them and where to get the data by hand.
    """
    dataset = kind.located(data, data)
    folder, wanted = dataset.folder, paths_of_layout(dataset.describe_layout())
    if all((folder / path).exists() for path in wanted):
        return []
    folder.parent.mkdir(parents=True, exist_ok=True)
    hidden = folder.with_name(f".{folder.name}-download")
    failures = []
    for source in (_from_hub, _from_torchvision):
        try:
            added = source(kind, folder, hidden, wanted)
        except OSError as error:
            logger.warning("%s", error)
            failures.append(str(error))
            continue
        if added is not None:
            return added
    where = ", ".join([kind.source, *kind.facts.links])
    tried = "; ".join(failures) or "no automatic download"
    raise OSError(
        f"{kind.__name__}: {tried}. Get it from {where}; expected in {folder}: {'; '.join(dataset.describe_layout())}"
    )


def _from_hub(kind: type[FewShotDataset], folder: Path, hidden: Path, wanted: list[str]) -> list[Path] | None:
    if not kind.facts.archive:
        return None
    record = folder.with_name(f".{folder.name}-source.json")
    archive = hub.download(kind.facts.archive, hidden, record, kind.facts.sha256)
    unpacked = hidden / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)  # of an interrupted call
    unpack_zip(archive, unpacked)
    found = next(
        (path for path in (unpacked / folder.name, unpacked, *_below(unpacked)) if has_layout(path, wanted)), None
    )
    if found is None:
        names = ", ".join(sorted(path.name for path in unpacked.iterdir())[:5])
        raise OSError(f"{archive}: contains {names}; expected {', '.join(wanted)}")
    hub.write_record(record, archive)
    added = _move(sorted(found.iterdir()), folder)
    shutil.rmtree(hidden)
    return added


def _below(folder: Path) -> list[Path]:
    level = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    return level + [path for other in level for path in sorted(other.iterdir()) if path.is_dir()]


def _move(paths: list[Path], folder: Path) -> list[Path]:
    """Move files and folders into `folder` unless their names exist there; return the new paths."""
    folder.mkdir(parents=True, exist_ok=True)
    added = []
    for path in paths:
        target = folder / path.name
        if not target.exists():
            path.rename(target)
            added.append(target)
    return added


def _from_torchvision(kind: type[FewShotDataset], folder: Path, hidden: Path, wanted: list[str]) -> list[Path] | None:
    download = kind.facts.download
    if download is None:
        return None
    missing = {source: folder / target for source, target in download.moves.items() if not (folder / target).exists()}
    if not missing:
        return []
    hidden.mkdir(parents=True, exist_ok=True)
    _run_torchvision(download, hidden)
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


def _run_torchvision(download: Download, hidden: Path) -> None:
    try:
        getattr(torchvision.datasets, download.torchvision)(str(hidden), download=True)
    except Exception as error:  # network errors, damaged archives, dead links: torchvision raises many types
        if not any(hidden.iterdir()):
            hidden.rmdir()
        reason = " ".join(str(error).split())
        raise OSError(f"torchvision.datasets.{download.torchvision}: download failed ({reason})") from error
