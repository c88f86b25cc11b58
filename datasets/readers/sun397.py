"""SUN397 (Xiao et al., 2010)."""

import os
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY

from ..annotations import look_up
from ..class_folders import Entry
from ..facts import Facts
from ..listed import SplitFileDataset
from ..splits import Split
from ..text_files import read_lines


@DATASET_REGISTRY.register()
class SUN397(SplitFileDataset):
    """SUN397: scenes, 397 classes."""

    dataset_dir = "sun397"
    image_dir = "SUN397"
    annotations = ("ClassName.txt", "Training_01.txt", "Testing_01.txt")
    source = "a mirror of the same layout (the links of the SUN Database page and of torchvision are dead)"
    facts = Facts(
        *(397, 15880, 3970, 19850),
        link="https://vision.princeton.edu/projects/2010/SUN/",
        archive="sun397.zip",
        files={"split_zhou_SUN397.json": "9847f9ef611008073ac42adee6614bbb83f877cfbcfbd3115fc8284e0c8c1c47"},
    )

    def list_raw(self) -> tuple[Split, Path]:
        """Read one class folder per line and one image per line.

        The path a/apse/indoor has the name "indoor apse".
        """
        names, train, test = (self.require(name) for name in self.annotations)
        labels = {line: label for label, line in enumerate(read_lines(names))}
        return {"trainval": self._entries(train, labels), "test": self._entries(test, labels)}, train

    @staticmethod
    def _entries(path: Path, labels: dict[str, int]) -> list[Entry]:
        entries = []
        for line in read_lines(path):
            folder = os.path.dirname(line)
            label = look_up(labels, folder, path, "ClassName.txt")
            words = folder.strip("/").split("/")[1:]  # the first part is a letter of the alphabet
            entries.append((line.lstrip("/"), label, " ".join(reversed(words))))
        return entries
