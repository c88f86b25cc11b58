"""Oxford 102 Flowers (Nilsback and Zisserman, 2008)."""

from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY

from ..annotations import parsing, read_matlab
from ..errors import DatasetError
from ..facts import Download, Facts
from ..listed import SplitFileDataset
from ..splits import Split
from ..text_files import read_json


@DATASET_REGISTRY.register()
class OxfordFlowers(SplitFileDataset):
    """Oxford 102 Flowers: 102 classes."""

    dataset_dir = "oxford_flowers"
    image_dir = "jpg"
    annotations = ("imagelabels.mat", "cat_to_name.json")
    source = (
        "the 102 Category Flower page of Oxford's VGG (torchvision.datasets.Flowers102 downloads it); "
        "cat_to_name.json is linked in the CoOp repository's DATASETS.md"
    )
    facts = Facts(
        *(102, 4093, 1633, 2463),
        link="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        archive="oxford_flowers.zip",
        files={"split_zhou_OxfordFlowers.json": "2f50c42fc1a17ca13c271cb4269b1347bdb43d2be672e34f74a4e4cbfbcca794"},
        download=Download("Flowers102", {f"flowers-102/{name}": name for name in ("jpg", "imagelabels.mat")}),
    )

    def list_raw(self) -> tuple[Split, Path]:
        """Read the Matlab vector `labels`, from 1, of image_00001.jpg and so on, and the names by label."""
        labels, names = (self.require(name) for name in self.annotations)
        name_of = read_json(names)
        with parsing(labels, "the labels of Oxford Flowers"):
            numbers = [int(number) for number in read_matlab(labels, "labels")[0].tolist()]
        entries = []
        for number, label in enumerate(numbers, start=1):
            if not isinstance(name_of, dict) or str(label) not in name_of:
                raise DatasetError(f"{names}: no name for label {label} of {labels}; expected one per label")
            entries.append((f"image_{number:05d}.jpg", label - 1, str(name_of[str(label)])))
        return {"all": entries}, labels
