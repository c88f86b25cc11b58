"""ImageNet and the four test sets that share its classes: class folders and classnames.txt.

Class names are not checked for duplicates here: the family's list names a few classes alike.
"""

import os

from dassl.data.datasets import DATASET_REGISTRY, Datum

from .base import FewShotDataset
from .errors import DatasetError
from .files import read_pairs
from .folders import class_folders, list_classes

_CLASSNAMES = 'classnames.txt ("n01440764 tench" a line; linked in the CoOp repository\'s DATASETS.md)'


class _ImageNetFamily(FewShotDataset):
    """Reads class folders with the names of classnames.txt."""

    image_dir = ""

    @property
    def layout(self):
        return f"{self.image_dir}/<class>/<image>", _CLASSNAMES

    def read_classnames(self):
        return read_pairs(self.require("classnames.txt"))

    def folder_names(self):
        """{class folder: class name} of the class folders that are present, in order of their labels."""
        folder = self.require(self.image_dir)
        names = self.read_classnames()
        present = list_classes(folder)
        unknown = [name for name in present if name not in names]
        if unknown:
            raise DatasetError(
                f'{self.folder / "classnames.txt"} has no name for the folder "{unknown[0]}" of {folder} '
                f"({len(unknown)} such folders)"
            )
        return {name: names[name] for name in present}

    def datums(self, names, image_dir):
        """list of Datum of the class folders `names` in `image_dir` (relative to the dataset's folder)."""
        entries = class_folders(self.folder, names, below=image_dir)
        return [Datum(impath=os.path.join(self.dataset_dir, p), label=y, classname=c) for p, y, c in entries]


class _ImageNetTestSet(_ImageNetFamily):
    """A test set only: its images also stand as train_x, for the class names; nothing is drawn from it."""

    def read(self, root):
        images = self.datums(self.folder_names(), self.image_dir)
        return images, None, images


@DATASET_REGISTRY.register()
class ImageNet(_ImageNetFamily):
    """ImageNet-1k (Deng et al., 2009); the validation images are the test set, and val too."""

    dataset_dir = "imagenet"
    image_dir = "images/train"
    layout = ("images/train/<class>/<image>", "images/val/<class>/<image>", _CLASSNAMES)
    source = "image-net.org (ILSVRC 2012; the validation images sorted into class folders)"

    def read(self, root):
        """See FewShotDataset.read."""
        names = self.folder_names()
        val = self.require("images/val")
        different = set(list_classes(val)) ^ set(names)
        if different:
            raise DatasetError(f'"{min(different)}" is a class folder of only one of {val} and {val.parent / "train"}')
        test = self.datums(names, "images/val")
        return self.datums(names, "images/train"), test, test


@DATASET_REGISTRY.register()
class ImageNetV2(_ImageNetTestSet):
    """ImageNetV2, matched frequency (Recht et al., 2019); folder i holds the class of label i."""

    dataset_dir = "imagenetv2"
    image_dir = "imagenetv2-matched-frequency-format-val"
    source = "the ImageNetV2 repository (github.com/modestyachts/ImageNetV2)"

    def folder_names(self):
        """{"0": first name of classnames.txt, ...}."""
        names = {str(label): name for label, name in enumerate(self.read_classnames().values())}
        different = set(list_classes(self.require(self.image_dir))) ^ set(names)
        if different:
            raise DatasetError(
                f"{self.folder / self.image_dir} needs a folder for each of {len(names)} classes, "
                f'named 0 to {len(names) - 1}: "{min(different)}" is missing or too many'
            )
        return names


@DATASET_REGISTRY.register()
class ImageNetSketch(_ImageNetTestSet):
    """ImageNet-Sketch (Wang et al., 2019)."""

    dataset_dir = "imagenet-sketch"
    image_dir = "images"
    source = "the ImageNet-Sketch repository (github.com/HaohanWang/ImageNet-Sketch)"


@DATASET_REGISTRY.register()
class ImageNetA(_ImageNetTestSet):
    """ImageNet-A (Hendrycks et al., 2021): 200 classes, labels count the folders present."""

    dataset_dir = "imagenet-adversarial"
    image_dir = "imagenet-a"
    source = "the ImageNet-A repository (github.com/hendrycks/natural-adv-examples)"


@DATASET_REGISTRY.register()
class ImageNetR(_ImageNetTestSet):
    """ImageNet-R (Hendrycks et al., 2021): 200 classes, labels count the folders present."""

    dataset_dir = "imagenet-rendition"
    image_dir = "imagenet-r"
    source = "the ImageNet-R repository (github.com/hendrycks/imagenet-r)"
