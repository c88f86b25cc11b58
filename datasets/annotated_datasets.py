"""The datasets that come with annotation files of their own: one small reader each."""

import os
import re

from dassl.data.datasets import DATASET_REGISTRY

from .errors import DatasetError
from .files import read_json, read_lines, read_pairs
from .listed import ListedDataset, SplitFileDataset


@DATASET_REGISTRY.register()
class OxfordPets(SplitFileDataset):
    """Oxford-IIIT Pet (Parkhi et al., 2012): breeds of cats and dogs, 37 classes."""

    dataset_dir = "oxford_pets"
    image_dir = "images"
    annotations = ("annotations/trainval.txt", "annotations/test.txt")
    source = "the Oxford-IIIT Pet page of Oxford's VGG (torchvision.datasets.OxfordIIITPet downloads it)"

    def list_raw(self):
        """Lines such as "Abyssinian_100 1 1 1": image, label from 1, species, breed."""
        trainval, test = (self.require(name) for name in self.annotations)
        return {"trainval": self._entries(trainval), "test": self._entries(test)}, trainval.parent

    @staticmethod
    def _entries(path):
        rows = ((image, int(label)) for image, label, *_ in _fields(path, 4))
        return [(f"{image}.jpg", label - 1, image.rpartition("_")[0].lower()) for image, label in rows]


@DATASET_REGISTRY.register()
class StanfordCars(SplitFileDataset):
    """Stanford Cars (Krause et al., 2013): makes and models, 196 classes; the year leads the class name."""

    dataset_dir = "stanford_cars"
    image_folders = ("cars_train", "cars_test")
    annotations = ("devkit/cars_train_annos.mat", "devkit/cars_meta.mat", "cars_test_annos_withlabels.mat")
    source = "the Stanford Cars page (its links are often dead: look for a mirror of the same layout)"

    def list_raw(self):
        """Matlab structures: `annotations` with `fname` and `class` from 1, and `class_names`."""
        train, meta, test = (self.require(name) for name in self.annotations)
        names = [_year_first(str(cell[0])) for cell in _matlab(meta, "class_names")[0]]
        trainval, test = (
            [
                (f"{folder}/{row['fname'][0]}", label, names[label])
                for row in _matlab(path, "annotations")[0]
                for label in [_checked(int(row["class"][0, 0]) - 1, len(names), path)]
            ]
            for path, folder in ((train, "cars_train"), (test, "cars_test"))
        )
        return {"trainval": trainval, "test": test}, train.parent


@DATASET_REGISTRY.register()
class OxfordFlowers(SplitFileDataset):
    """Oxford 102 Flowers (Nilsback and Zisserman, 2008): 102 classes."""

    dataset_dir = "oxford_flowers"
    image_dir = "jpg"
    annotations = ("imagelabels.mat", "cat_to_name.json")
    source = (
        "the 102 Category Flower page of Oxford's VGG (torchvision.datasets.Flowers102 downloads it); "
        "cat_to_name.json is linked in the CoOp repository's DATASETS.md"
    )

    def list_raw(self):
        """Matlab vector `labels`, from 1, of image_00001.jpg and so on; names by label."""
        labels, names = (self.require(name) for name in self.annotations)
        name_of = read_json(names)
        entries = []
        for number, label in enumerate(_matlab(labels, "labels")[0].tolist(), start=1):
            if str(label) not in name_of:
                raise DatasetError(f"{names} has no name for label {label} of {labels}")
            entries.append((f"image_{number:05d}.jpg", label - 1, name_of[str(label)]))
        return {"all": entries}, labels


@DATASET_REGISTRY.register()
class SUN397(SplitFileDataset):
    """SUN397 (Xiao et al., 2010): scenes, 397 classes."""

    dataset_dir = "sun397"
    image_dir = "SUN397"
    annotations = ("ClassName.txt", "Training_01.txt", "Testing_01.txt")
    source = "the SUN Database page (its links are often dead: look for a mirror of the same layout)"

    def list_raw(self):
        """A class folder a line, an image a line; a/apse/indoor is called "indoor apse"."""
        names, train, test = (self.require(name) for name in self.annotations)
        labels = {line: label for label, line in enumerate(read_lines(names))}
        return {"trainval": self._entries(train, labels), "test": self._entries(test, labels)}, train

    @staticmethod
    def _entries(path, labels):
        entries = []
        for line in read_lines(path):
            folder = os.path.dirname(line)
            label = _known(labels, folder, path, "ClassName.txt")
            words = folder.strip("/").split("/")[1:]  # the first part is a letter of the alphabet
            entries.append((line.lstrip("/"), label, " ".join(reversed(words))))
        return entries


@DATASET_REGISTRY.register()
class UCF101(SplitFileDataset):
    """UCF101 (Soomro et al., 2012), the middle frame of each video: actions, 101 classes."""

    dataset_dir = "ucf101"
    image_dir = "UCF-101-midframes"
    annotations = tuple(f"ucfTrainTestlist/{name}.txt" for name in ("classInd", "trainlist01", "testlist01"))
    source = "the CoOp repository's DATASETS.md, for the middle frames; the UCF101 page, for ucfTrainTestlist"

    def list_raw(self):
        """Lines such as "1 ApplyEyeMakeup" and "ApplyEyeMakeup/v_1.avi 1"."""
        index, train, test = (self.require(name) for name in self.annotations)
        labels = {name: int(label) - 1 for label, name in _fields(index, 2)}
        return {"trainval": self._entries(train, labels), "test": self._entries(test, labels)}, train

    @staticmethod
    def _entries(path, labels):
        entries = []
        for line in read_lines(path):
            action, _, video = line.split(" ")[0].partition("/")
            label = _known(labels, action, path, "classInd.txt")
            name = "_".join(re.findall("[A-Z][^A-Z]*", action))
            entries.append((f"{name}/{video.replace('.avi', '.jpg')}", label, name))
        return entries


@DATASET_REGISTRY.register()
class FGVCAircraft(ListedDataset):
    """FGVC-Aircraft (Maji et al., 2013): 100 variants of aircraft; its own three lists are the split."""

    dataset_dir = "fgvc_aircraft"
    image_dir = "images"
    layout = ("images/", "variants.txt", *(f"images_variant_{part}.txt" for part in ("train", "val", "test")))
    source = "the FGVC-Aircraft page of Oxford's VGG (torchvision.datasets.FGVCAircraft downloads it)"
    split_in_use = "published (images_variant_*.txt)"

    def list_images(self):
        """Lines such as "0034309 707-320": image and variant."""
        labels = {name: label for label, name in enumerate(read_lines(self.require("variants.txt")))}
        parts = {}
        for part in ("train", "val", "test"):
            path = self.require(f"images_variant_{part}.txt")
            parts[part] = [
                (f"{image}.jpg", _known(labels, name, path, "variants.txt"), name)
                for image, name in read_pairs(path).items()
            ]
        return parts, self.folder / "images_variant_*.txt"


def _fields(path, count):
    """Rows of `count` space-separated fields."""
    rows = [line.split() for line in read_lines(path)]
    for row in rows:
        if len(row) != count:
            raise DatasetError(f'{path}: "{" ".join(row)}" has {len(row)} fields, not {count}')
    return rows


def _known(labels, name, path, names):
    if name not in labels:
        raise DatasetError(f'{path} names the class "{name}", which {names} does not have')
    return labels[name]


def _checked(label, count, path):
    if not 0 <= label < count:
        raise DatasetError(f"{path} has class {label + 1}; there are {count} class names")
    return label


def _year_first(name):
    words = name.split(" ")
    return " ".join([words[-1], *words[:-1]])


def _matlab(path, variable):
    try:
        from scipy.io import loadmat  # needed here only, and only without the split file
    except ImportError as error:
        raise ImportError(f"Reading {path} takes SciPy (pip install scipy); the published split does not") from error
    try:
        return loadmat(path)[variable]
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f'{path} is not a Matlab file with "{variable}": {error}') from error
