"""One image (`Datum`) and a dataset of them (`DatasetBase`)."""

import logging
import os
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

logger = logging.getLogger(__name__)


class Datum:
    """An image file with its label, domain and class name; read-only.

    The module's path and the attributes' names are part of the few-shot files (`shot_<n>-seed_<s>.pkl`) of the family's
    datasets: files written with the real Dassl load here, and the other way round.

    Args:
        impath: path of the image.
        label: the class, counted from 0.
        domain: the domain, counted from 0.
        classname: the class's name.

    Raises:
        TypeError: `impath` is not a string.
        FileNotFoundError: the file does not exist.
    """

    def __init__(self, impath: str = "", label: int = 0, domain: int = 0, classname: str = ""):
        if not isinstance(impath, str):
            raise TypeError(f"image path: {impath!r}; expected a string")
        if not os.path.isfile(impath):
            raise FileNotFoundError(
                f'No image "{impath}" (label {label}, {classname}): check DATASET.ROOT and the download'
            )
        self._impath = impath
        self._label = label
        self._domain = domain
        self._classname = classname

    @property
    def impath(self) -> str:
        """Path of the image."""
        return self._impath

    @property
    def label(self) -> int:
        """The class, counted from 0."""
        return self._label

    @property
    def domain(self) -> int:
        """The domain, counted from 0."""
        return self._domain

    @property
    def classname(self) -> str:
        """The class's name."""
        return self._classname


Items = Sequence[Datum]


class DatasetBase:
    """Lists of `Datum`: `train_x`, and optionally `train_u` (unlabelled), `val`, `test`.

    A subclass is registered in `DATASET_REGISTRY` and takes `cfg`. `num_classes`, `lab2cname` ({label: name}) and
    `classnames` (in the order of labels) are those of `train_x`.

    Args:
        train_x: labelled training images.
        train_u: unlabelled training images.
        val: validation images.
        test: test images.

    Raises:
        ValueError: `train_x` is empty.
    """

    dataset_dir = ""
    domains: Sequence[str] = ()

    def __init__(
        self,
        train_x: Items | None = None,
        train_u: Items | None = None,
        val: Items | None = None,
        test: Items | None = None,
    ):
        if not train_x:
            raise ValueError(f"{type(self).__name__} has no training images, so no classes either")
        self._train_x = train_x
        self._train_u = train_u
        self._val = val
        self._test = test
        self._num_classes = self.get_num_classes(train_x)
        self._lab2cname, self._classnames = self.get_lab2cname(train_x)

    @property
    def train_x(self) -> Items:
        """Labelled training images."""
        return self._train_x

    @property
    def train_u(self) -> Items | None:
        """Unlabelled training images."""
        return self._train_u

    @property
    def val(self) -> Items | None:
        """Validation images."""
        return self._val

    @property
    def test(self) -> Items | None:
        """Test images."""
        return self._test

    @property
    def lab2cname(self) -> dict[int, str]:
        """{label: class name}, in the order of labels."""
        return self._lab2cname

    @property
    def classnames(self) -> list[str]:
        """Class names in the order of labels."""
        return self._classnames

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return self._num_classes

    @staticmethod
    def get_num_classes(data_source: Items) -> int:
        """Return the largest label plus one."""
        return max(item.label for item in data_source) + 1

    @staticmethod
    def get_lab2cname(data_source: Items) -> tuple[dict[int, str], list[str]]:
        """Return {label: class name} and the names, in the order of labels.

        A label's first name counts.
        """
        names: dict[int, str] = {}
        for item in data_source:
            if names.setdefault(item.label, item.classname) != item.classname:
                logger.warning('Label %d is called "%s" and "%s"', item.label, names[item.label], item.classname)
        names = dict(sorted(names.items()))
        return names, list(names.values())

    def generate_fewshot_dataset(self, *data_sources: Items, num_shots: int = -1, repeat: bool = False) -> Any:
        """Draw `num_shots` images per class with `random.sample`.

        Classes are in the order of their first image.

        Args:
            data_sources: lists of images.
            num_shots: below 1, the sources are returned unchanged.
            repeat: fill up a class that has fewer images by repetition; else all its images are taken.

        Returns:
            A list of `Datum`; for several sources, a list of such lists.
        """
        if num_shots < 1:
            return data_sources[0] if len(data_sources) == 1 else data_sources
        logger.info("Creating a %d-shot dataset", num_shots)
        drawn = [
            [
                item
                for items in self.split_dataset_by_label(source).values()
                for item in self._draw(items, num_shots, repeat)
            ]
            for source in data_sources
        ]
        return drawn[0] if len(drawn) == 1 else drawn

    @staticmethod
    def _draw(items: list[Datum], num_shots: int, repeat: bool) -> list[Datum]:
        if len(items) >= num_shots:
            return random.sample(items, num_shots)
        return random.choices(items, k=num_shots) if repeat else items

    @staticmethod
    def split_dataset_by_label(data_source: Items) -> dict[int, list[Datum]]:
        """Return {label: its items}, labels in the order of their first item."""
        groups: defaultdict[int, list[Datum]] = defaultdict(list)
        for item in data_source:
            groups[item.label].append(item)
        return groups
