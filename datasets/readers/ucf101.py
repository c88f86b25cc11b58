"""UCF101 (Soomro et al., 2012)."""

import re
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY

from ..annotations import label_number, look_up, read_fields
from ..class_folders import Entry
from ..facts import Facts
from ..listed import SplitFileDataset
from ..splits import Split
from ..text_files import read_lines


@DATASET_REGISTRY.register()
class UCF101(SplitFileDataset):
    """UCF101, the middle frame of each video: actions, 101 classes."""

    dataset_dir = "ucf101"
    image_dir = "UCF-101-midframes"
    annotations = tuple(f"ucfTrainTestlist/{name}.txt" for name in ("classInd", "trainlist01", "testlist01"))
    source = "the CoOp repository's DATASETS.md, for the middle frames; the UCF101 page, for ucfTrainTestlist"
    facts = Facts(
        *(101, 7639, 1898, 3783),
        link="https://www.crcv.ucf.edu/data/UCF101.php",
        archive="ucf101.zip",
        files={"split_zhou_UCF101.json": "d78cb834f7c5792ceaff2c5ee2d7c76a9e4086e48a3a6b01232989d29cbefdd8"},
    )

    def list_raw(self) -> tuple[Split, Path]:
        """Read lines such as "1 ApplyEyeMakeup" and "ApplyEyeMakeup/v_1.avi 1"."""
        index, train, test = (self.require(name) for name in self.annotations)
        labels = {name: label_number(label, index) for label, name in read_fields(index, 2)}
        return {"trainval": self._entries(train, labels), "test": self._entries(test, labels)}, train

    @staticmethod
    def _entries(path: Path, labels: dict[str, int]) -> list[Entry]:
        entries = []
        for line in read_lines(path):
            action, _, video = line.split(" ")[0].partition("/")
            label = look_up(labels, action, path, "classInd.txt")
            name = "_".join(re.findall("[A-Z][^A-Z]*", action))
            entries.append((f"{name}/{video.replace('.avi', '.jpg')}", label, name))
        return entries
