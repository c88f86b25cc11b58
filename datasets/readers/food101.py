"""Food-101 (Bossard et al., 2014)."""

from dassl.data.datasets import DATASET_REGISTRY

from ..facts import Download, Facts
from ..listed import SplitFileDataset


@DATASET_REGISTRY.register()
class Food101(SplitFileDataset):
    """Food-101: dishes, 101 classes."""

    dataset_dir = "food-101"
    image_dir = "images"
    source = "the Food-101 page of ETH Zurich's Computer Vision Lab (torchvision.datasets.Food101 downloads it)"
    facts = Facts(
        *(101, 50500, 20200, 30300),
        link="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        archive="food101.zip",
        download=Download("Food101", {"food-101/images": "images"}),
    )
