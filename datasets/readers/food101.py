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
        files={"split_zhou_Food101.json": "7c3d456c4f348255e1a363e0ea5118318936488f3ec20d83758e0ee67cb9037c"},
        download=Download("Food101", {"food-101/images": "images"}),
    )
