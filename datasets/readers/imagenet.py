"""ImageNet and the four test sets that share its classes: class folders and classnames.txt.

Class names may repeat here: the family's list contains a few identical names.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY

from ..base import FewShotDataset, Items
from ..class_folders import list_classes, list_images
from ..errors import DatasetError
from ..facts import Facts
from ..text_files import read_pairs

_CLASSNAMES = 'classnames.txt ("n01440764 tench" per line; linked in the CoOp repository\'s DATASETS.md)'


class _ImageNetFamily(FewShotDataset):
    """Reads class folders with the names of classnames.txt."""

    image_dir = ""

    def describe_layout(self) -> Sequence[str]:
        return self.layout or (f"{self.image_dir}/<class>/<image>", _CLASSNAMES)

    def read_classnames(self) -> dict[str, str]:
        """Return {WordNet id: class name} of classnames.txt in the order of WordNet ids, which is ImageNet's.

        Raises:
            DatasetError: the file has another format.
        """
        path = self.require("classnames.txt")
        names = read_pairs(path)
        for wordnet_id, name in names.items():
            if not re.fullmatch(r"n\d{8}", wordnet_id) or not name[0].isalpha():
                raise DatasetError(
                    f'{path}: line "{wordnet_id} {name[:60]}"; expected a WordNet id, a space and a class name, such as '
                    '"n01440764 tench". Use the classnames.txt that the CoOp repository links'
                )
        synonyms = [name for name in names.values() if "," in name]
        if 10 * len(synonyms) > len(names):
            self.remark(
                f'{path}: {len(synonyms)} of {len(names)} class names are lists such as "{synonyms[0][:60]}"; published '
                "results use a single name per class, see the classnames.txt that the CoOp repository links"
            )
        return dict(sorted(names.items()))

    def folder_names(self) -> dict[str, str]:
        """Return {class folder: class name} of the existing class folders in the order of their labels.

        Raises:
            DatasetError: classnames.txt has no name for a folder.
        """
        folder = self.require(self.image_dir)
        names = self.read_classnames()
        existing = list_classes(folder)
        unknown = [name for name in existing if name not in names]
        if unknown:
            raise DatasetError(
                f'{self.folder / "classnames.txt"}: no name for the folder "{unknown[0]}" of {folder} '
                f"({len(unknown)} such folders); expected a line per class folder"
            )
        return {name: names[name] for name in existing}

    def items_of(self, names: Mapping[str, str], image_dir: str) -> Items:
        """List the images of the class folders `names` in `image_dir` (relative to the dataset's folder)."""
        return self.make_items(list_images(self.folder, names, self.skipped, below=image_dir), self.folder)


class _ImageNetTestSet(_ImageNetFamily):
    """A test set: its images are also train_x, for the class names; nothing is drawn from it."""

    def read(self, root: Path) -> tuple[Items, Items | None, Items]:
        images = self.items_of(self.folder_names(), self.image_dir)
        return images, None, images


@DATASET_REGISTRY.register()
class ImageNet(_ImageNetFamily):
    """ImageNet-1k (Deng et al., 2009); the validation images are both test and val."""

    dataset_dir = "imagenet"
    image_dir = "images/train"
    layout = ("images/train/<class>/<image>", "images/val/<class>/<image>", _CLASSNAMES)
    source = "image-net.org (ILSVRC 2012; the validation images sorted into class folders)"
    facts = Facts(*(1000, 1281167, None, 50000), link="https://image-net.org/download.php")

    def read(self, root: Path) -> tuple[Items, Items | None, Items]:
        names = self.folder_names()
        val = self.require("images/val")
        different = set(list_classes(val)) ^ set(names)
        if different:
            raise DatasetError(
                f'{val}: the class folder "{min(different)}" exists in only one of images/train and images/val; '
                "expected the same class folders in both"
            )
        test = self.items_of(names, "images/val")
        return self.items_of(names, "images/train"), test, test


@DATASET_REGISTRY.register()
class ImageNetV2(_ImageNetTestSet):
    """ImageNetV2, matched frequency (Recht et al., 2019).

    Folder i contains the class of label i.
    """

    dataset_dir = "imagenetv2"
    image_dir = "imagenetv2-matched-frequency-format-val"
    source = "the ImageNetV2 repository (github.com/modestyachts/ImageNetV2)"
    facts = Facts(
        *(1000, None, None, 10000), link="https://github.com/modestyachts/ImageNetV2", archive="imagenetv2.zip"
    )

    def folder_names(self) -> dict[str, str]:
        """Return {"0": name of the first WordNet id, ...}.

        Raises:
            DatasetError: the folders are not 0, 1, 2, …, one per class name.
        """
        names = {str(label): name for label, name in enumerate(self.read_classnames().values())}
        different = set(list_classes(self.require(self.image_dir))) ^ set(names)
        if different:
            raise DatasetError(
                f'{self.folder / self.image_dir}: "{min(different)}" is missing or unexpected; expected folders '
                f"0 to {len(names) - 1}, one per line of classnames.txt"
            )
        return names


@DATASET_REGISTRY.register()
class ImageNetSketch(_ImageNetTestSet):
    """ImageNet-Sketch (Wang et al., 2019)."""

    dataset_dir = "imagenet-sketch"
    image_dir = "images"
    source = "the ImageNet-Sketch repository (github.com/HaohanWang/ImageNet-Sketch)"
    facts = Facts(
        *(1000, None, None, 50889), link="https://github.com/HaohanWang/ImageNet-Sketch", archive="imagenet-sketch.zip"
    )


@DATASET_REGISTRY.register()
class ImageNetA(_ImageNetTestSet):
    """ImageNet-A (Hendrycks et al., 2021): 200 classes, labels count the existing folders."""

    dataset_dir = "imagenet-adversarial"
    image_dir = "imagenet-a"
    source = "the ImageNet-A repository (github.com/hendrycks/natural-adv-examples)"
    facts = Facts(
        *(200, None, None, 7500),
        link="https://github.com/hendrycks/natural-adv-examples",
        archive="imagenet-adversarial.zip",
    )


@DATASET_REGISTRY.register()
class ImageNetR(_ImageNetTestSet):
    """ImageNet-R (Hendrycks et al., 2021): 200 classes, labels count the existing folders."""

    dataset_dir = "imagenet-rendition"
    image_dir = "imagenet-r"
    source = "the ImageNet-R repository (github.com/hendrycks/imagenet-r)"
    facts = Facts(
        *(200, None, None, 30000), link="https://github.com/hendrycks/imagenet-r", archive="imagenet-rendition.zip"
    )
