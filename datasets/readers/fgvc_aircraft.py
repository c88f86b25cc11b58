"""FGVC-Aircraft (Maji et al., 2013)."""

from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY

from ..annotations import look_up
from ..facts import Download, Facts
from ..listed import ListedDataset
from ..splits import PARTS, Split
from ..text_files import read_lines, read_pairs

_LISTS = ("variants.txt", *(f"images_variant_{part}.txt" for part in PARTS))


@DATASET_REGISTRY.register()
class FGVCAircraft(ListedDataset):
    """FGVC-Aircraft: 100 variants of aircraft.

    The split is the dataset's own three lists.
    """

    dataset_dir = "fgvc_aircraft"
    image_dir = "images"
    layout = ("images/", *_LISTS)
    source = "the FGVC-Aircraft page of Oxford's VGG (torchvision.datasets.FGVCAircraft downloads it)"
    split_in_use = "published (images_variant_*.txt)"
    facts = Facts(
        *(100, 3334, 3333, 3333),
        link="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        archive="fgvc_aircraft.zip",
        files={
            "variants.txt": "6e14e778b0a7c94c80619a7ba2c9f90c6784c9c997e308938ff8d3ee11662f0b",
            "images_variant_train.txt": "29ac66fb762b9e1e5d007a18cb2cd2404ee326a4bce1dc0040e267c5585c46e7",
            "images_variant_val.txt": "17afd8d6aac16d6188109465637f224a69e6c68d8b6e8422a2591f87aa3a8281",
            "images_variant_test.txt": "06b5f65d559c399d6887d660dcec09dbf661576c0f3bd85e981e976b2bed3511",
        },
        download=Download("FGVCAircraft", {f"fgvc-aircraft-2013b/data/{name}": name for name in ("images", *_LISTS)}),
    )

    def list_split(self) -> tuple[Split, Path]:
        """Read lines such as "0034309 707-320": image and variant."""
        labels = {name: label for label, name in enumerate(read_lines(self.require("variants.txt")))}
        parts = {}
        for part in PARTS:
            path = self.require(f"images_variant_{part}.txt")
            parts[part] = [
                (f"{image}.jpg", look_up(labels, name, path, "variants.txt"), name)
                for image, name in read_pairs(path).items()
            ]
        return parts, self.folder / "images_variant_*.txt"
