"""Stanford Cars (Krause et al., 2013)."""

from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY

from ..annotations import parsing, read_matlab
from ..class_folders import Entry
from ..errors import DatasetError
from ..facts import Facts
from ..listed import SplitFileDataset
from ..splits import Split


@DATASET_REGISTRY.register()
class StanfordCars(SplitFileDataset):
    """Stanford Cars: makes and models, 196 classes; class names start with the year."""

    dataset_dir = "stanford_cars"
    image_folders = ("cars_train", "cars_test")
    annotations = ("devkit/cars_train_annos.mat", "devkit/cars_meta.mat", "cars_test_annos_withlabels.mat")
    source = "a mirror of the same layout (the links of the Stanford Cars page and of torchvision are dead)"
    facts = Facts(
        *(196, 6509, 1635, 8041),
        archive="stanford_cars.zip",
        files={"split_zhou_StanfordCars.json": "40acee7aa65c8e4727a32d90e884b7c3f8960b523422317e163f7af65432959d"},
    )

    def list_raw(self) -> tuple[Split, Path]:
        """Read Matlab structures: `annotations` with `fname` and `class` from 1, and `class_names`."""
        train, meta, test = (self.require(name) for name in self.annotations)
        with parsing(meta, "the class names of Stanford Cars"):
            names = [_year_first(str(cell[0])) for cell in read_matlab(meta, "class_names")[0]]
        return {
            "trainval": _entries(train, "cars_train", names),
            "test": _entries(test, "cars_test", names),
        }, train.parent


def _entries(path: Path, folder: str, names: list[str]) -> list[Entry]:
    with parsing(path, "annotations of Stanford Cars"):
        rows = [(str(row["fname"][0]), int(row["class"][0, 0])) for row in read_matlab(path, "annotations")[0]]
    for _, number in rows:
        if not 0 < number <= len(names):
            raise DatasetError(f"{path}: class {number}; expected 1 to {len(names)}")
    return [(f"{folder}/{image}", number - 1, names[number - 1]) for image, number in rows]


def _year_first(name: str) -> str:
    words = name.split(" ")
    return " ".join([words[-1], *words[:-1]])
