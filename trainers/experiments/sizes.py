"""The sizes of datasets and of their tests, without reading images."""

from dataclasses import dataclass
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY


@dataclass(frozen=True)
class Size:
    """The size of a dataset.

    Attributes:
        classes, train, test: numbers of classes and images.
    """

    classes: int
    train: int
    test: int


@dataclass(frozen=True)
class Tested:
    """The images of a test.

    Attributes:
        classes, images: their numbers.
        dataset, subset: the dataset's registered name, and which of its classes: "all", "base" or "new".
    """

    classes: int
    images: int
    dataset: str
    subset: str


def size_of(name: str, data: Path, output: Path) -> Size:
    """Return a dataset's size: its published counts, or else those of the data, which are read.

    Args:
        name: its registered name.
        data: folder of the datasets.
        output: folder of the runs, which may have a draw of validation images.

    Raises:
        OSError, ValueError: nothing is published, and the data are missing or damaged.
    """
    kind = DATASET_REGISTRY.get(name)
    if counts := kind.expected_counts():
        test = counts["test"] or 0
        return Size(counts["classes"] or 0, counts.get("train") or test, test)
    train, _, test_items = kind.located(data, output).read_all()
    return Size(len({item.label for item in train}), len(train), len(test_items))


def subset_classes(count: int, subset: str) -> int:
    """Return the number of classes of a subset; the first half has the odd one."""
    return {"base": -(-count // 2), "new": count // 2}.get(subset, count)


def tested(dataset: str, size: Size, subset: str) -> Tested:
    """Return the test on "all", "base" or "new" classes of a dataset."""
    classes = subset_classes(size.classes, subset)
    return Tested(classes, round(size.test * classes / size.classes), dataset, subset)
