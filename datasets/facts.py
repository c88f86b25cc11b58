"""Published facts of a dataset: counts and links. Each reader declares its own, next to its layout.

The counts are those of the CoOp paper (Zhou et al., 2022, table of datasets) and of the test sets' papers.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

REPOSITORY = "zhengli97/prompt_learning_dataset"  # all datasets but ImageNet, with their split files; of type "model"
REVISION = "ceb3112337fb6e1bf71534e355ca5569b63f19a6"
SPLITS = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"  # links split files, classnames.txt, middle frames
COLUMNS = ("classes", "train", "val", "test")


class Download(NamedTuple):
    """A download by torchvision.

    Attributes:
        torchvision: name of the class in `torchvision.datasets`.
        moves: {path below the class's root: path in the dataset's folder}.
    """

    torchvision: str
    moves: dict[str, str]


class Facts(NamedTuple):
    """Published facts of one dataset.

    Attributes:
        classes, train, val, test: numbers of classes and images (None: not published, or not a part).
        link: the data's web page ("": none, or dead).
        licence: of the images, as published ("": not known here).
        archive: file name in the Hugging Face repository of the field ("": not in it).
        sha256: the known hash of that file ("": unknown).
        files: {path in the dataset's folder: known SHA-256} of files that determine the split.
        download: how torchvision downloads it (None: not available).
    """

    classes: int | None = None
    train: int | None = None
    val: int | None = None
    test: int | None = None
    link: str = ""
    licence: str = ""
    archive: str = ""
    sha256: str = ""
    files: Mapping[str, str] = MappingProxyType({})
    download: Download | None = None

    @property
    def counts(self) -> dict[str, int | None]:
        """{"classes"|"train"|"val"|"test": number}; empty if nothing is published."""
        return {} if self.classes is None else dict(zip(COLUMNS, self[:4], strict=True))

    @property
    def links(self) -> list[str]:
        """Web pages to get the data from."""
        found = [f"https://huggingface.co/{REPOSITORY}/resolve/{REVISION}/{self.archive}"] if self.archive else []
        found += [self.link] if self.link else []
        return [*found, f"{SPLITS} (split files, classnames.txt, middle frames)"] if found else []
