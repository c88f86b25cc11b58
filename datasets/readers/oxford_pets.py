"""Oxford-IIIT Pet (Parkhi et al., 2012)."""

from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY

from ..annotations import label_number, read_fields
from ..class_folders import Entry
from ..facts import Download, Facts
from ..listed import SplitFileDataset
from ..splits import Split


@DATASET_REGISTRY.register()
class OxfordPets(SplitFileDataset):
    """Oxford-IIIT Pet: breeds of cats and dogs, 37 classes."""

    dataset_dir = "oxford_pets"
    image_dir = "images"
    annotations = ("annotations/trainval.txt", "annotations/test.txt")
    source = "the Oxford-IIIT Pet page of Oxford's VGG (torchvision.datasets.OxfordIIITPet downloads it)"
    facts = Facts(
        *(37, 2944, 736, 3669),
        link="https://www.robots.ox.ac.uk/~vgg/data/pets/",
        licence="CC BY-SA 4.0",
        archive="oxford_pets.zip",
        files={"split_zhou_OxfordPets.json": "d7f3ffe65b3919f95132e51422894ae18686b83c331fd8c0adcdc3dc2de6301e"},
        download=Download("OxfordIIITPet", {f"oxford-iiit-pet/{name}": name for name in ("images", "annotations")}),
    )

    def list_raw(self) -> tuple[Split, Path]:
        """Read lines such as "Abyssinian_100 1 1 1": image, label from 1, species, breed."""
        trainval, test = (self.require(name) for name in self.annotations)
        return {"trainval": self._entries(trainval), "test": self._entries(test)}, trainval.parent

    @staticmethod
    def _entries(path: Path) -> list[Entry]:
        rows = read_fields(path, 4)
        return [
            (f"{image}.jpg", label_number(label, path), image.rpartition("_")[0].lower()) for image, label, *_ in rows
        ]
