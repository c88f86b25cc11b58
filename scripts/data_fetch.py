"""Downloads by `torchvision.datasets`, moved into the family's layout."""

import logging
import shutil
from pathlib import Path
from typing import NamedTuple

import trainers  # noqa: F401  isort: skip (mends torchvision where that is needed)
import torchvision.datasets

from trainers.files import locked

logger = logging.getLogger(__name__)


class Download(NamedTuple):
    """A class of torchvision.datasets, and {what it leaves below its root: where that belongs in the dataset's folder}."""

    kind: str
    moves: dict[str, str]


_AIRCRAFT = ("images", "variants.txt", *(f"images_variant_{part}.txt" for part in ("train", "val", "test")))
_CARS = ("cars_train", "cars_test", "devkit", "cars_test_annos_withlabels.mat")
DOWNLOADS = {
    "Caltech101": Download("Caltech101", {"caltech101/101_ObjectCategories": "101_ObjectCategories"}),
    "OxfordPets": Download("OxfordIIITPet", {f"oxford-iiit-pet/{name}": name for name in ("images", "annotations")}),
    "StanfordCars": Download("StanfordCars", {f"stanford_cars/{name}": name for name in _CARS}),
    "OxfordFlowers": Download("Flowers102", {f"flowers-102/{name}": name for name in ("jpg", "imagelabels.mat")}),
    "Food101": Download("Food101", {"food-101/images": "images"}),
    "FGVCAircraft": Download("FGVCAircraft", {f"fgvc-aircraft-2013b/data/{name}": name for name in _AIRCRAFT}),
    "SUN397": Download("SUN397", {"SUN397": "SUN397"}),
    "DescribableTextures": Download("DTD", {"dtd/dtd/images": "images"}),
    "EuroSAT": Download("EuroSAT", {"eurosat/2750": "2750"}),
}


def fetch(download: Download, folder: Path) -> list[Path]:
    """Download into a hidden folder beside `folder`, then move what is not in `folder` yet; returns what was moved.

    What a download that failed has left stays in the hidden folder, where torchvision goes on with it.

    Raises:
        OSError: the download failed, or left something else than it should.
    """
    aside = folder.with_name(f".{folder.name}-download")
    with locked(aside):
        missing = {
            source: folder / target for source, target in download.moves.items() if not (folder / target).exists()
        }
        if not missing:
            return []
        aside.mkdir(parents=True, exist_ok=True)
        try:
            getattr(torchvision.datasets, download.kind)(str(aside), download=True)
        except Exception as error:  # of the network, of an archive, a dead link: anything
            if not any(aside.iterdir()):
                aside.rmdir()
            raise OSError(f"torchvision.datasets.{download.kind} could not download: {error}") from error
        for source in missing:
            if not (aside / source).exists():
                raise OSError(
                    f"torchvision.datasets.{download.kind} left no {source} in {aside}: look there, and move it"
                )
        folder.mkdir(parents=True, exist_ok=True)
        for source, target in missing.items():
            (aside / source).rename(target)
        shutil.rmtree(aside)
    return list(missing.values())
