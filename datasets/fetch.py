"""Download datasets and move them into the family's layout: from Hugging Face, else by torchvision; or render them."""

import logging
import os
import shutil
from pathlib import Path

import torchvision.datasets

from . import hub
from .archives import unpack_inner, unpack_zip
from .base import FewShotDataset
from .errors import DatasetError, MissingImagesError
from .facts import Download
from .layouts import find_layout, paths_of_layout
from .shapes.dataset import RenderedDataset

logger = logging.getLogger(__name__)


def fetch(kind: type[FewShotDataset], data: Path) -> list[Path]:
    """Download what is missing of a dataset, or render it; existing files are kept.

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
    if kind.own_images:
        raise OSError(f"{kind.__name__}: nothing to download; its images are your own")
    dataset = kind.located(data, data)
    folder, wanted = dataset.folder, paths_of_layout(dataset.describe_layout())
    if all((folder / path).exists() for path in wanted) and not _lacks_images(dataset):
        return []
    if issubclass(kind, RenderedDataset) and not folder.exists():
        kind.render_folder(folder)
        return [folder]
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


def _lacks_images(dataset: FewShotDataset) -> bool:
    """Return whether images that the split lists do not exist; faults that no download fixes do not count."""
    if not dataset.facts.archive:
        return False
    try:
        dataset.read_all()
    except MissingImagesError:
        return True
    except (DatasetError, OSError):
        pass  # reported by the check that follows
    return False


def _from_hub(kind: type[FewShotDataset], folder: Path, hidden: Path, wanted: list[str]) -> list[Path] | None:
    if not kind.facts.archive:
        return None
    record = folder.with_name(f".{folder.name}-source.json")
    archive = hub.download(kind.facts.archive, hidden, record, kind.facts.sha256)
    found = _unpacked(archive, hidden / "unpacked", wanted)
    hub.write_record(record, archive)
    folder.mkdir(parents=True, exist_ok=True)
    added = [folder / path.name for path in sorted(found.iterdir()) if _merge(path, folder / path.name)]
    shutil.rmtree(hidden)
    return added


def _unpacked(archive: Path, target: Path, wanted: list[str]) -> Path:
    """Unpack an archive, and those in it if need be; return the folder with the dataset's layout."""
    shutil.rmtree(target, ignore_errors=True)  # of an interrupted call
    try:
        unpack_zip(archive, target)
        found = find_layout(target, wanted)
        if found is None:
            unpack_inner(target)
            found = find_layout(target, wanted)
        if found is None:
            names = ", ".join(sorted(path.name for path in target.iterdir())[:5])
            raise OSError(f"{archive}: contains {names or 'nothing'}; expected {', '.join(wanted)}")
    except OSError:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return found


def _merge(source: Path, target: Path) -> bool:
    """Move a file or folder to `target`, of an existing folder what is missing in it; return whether anything was moved."""
    if not os.path.lexists(target):
        shutil.move(source, target)  # the dataset's folder may be a link to another disk
        return True
    inside = sorted(source.iterdir()) if source.is_dir() and target.is_dir() else []
    return any([_merge(path, target / path.name) for path in inside])


def _from_torchvision(kind: type[FewShotDataset], folder: Path, hidden: Path, wanted: list[str]) -> list[Path] | None:
    download = kind.facts.download
    if download is None:
        return None
    missing = {source: folder / target for source, target in download.moves.items() if not (folder / target).exists()}
    if not missing:  # the split file, or some images
        return None
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
        shutil.move(hidden / source, target)
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
