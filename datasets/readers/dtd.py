"""Describable Textures Dataset (Cimpoi et al., 2014)."""

from dassl.data.datasets import DATASET_REGISTRY

from ..facts import Download, Facts
from ..listed import SplitFileDataset


@DATASET_REGISTRY.register()
class DescribableTextures(SplitFileDataset):
    """Describable Textures Dataset, DTD: textures, 47 classes."""

    dataset_dir = "dtd"
    image_dir = "images"
    source = "the DTD page of Oxford's Visual Geometry Group (torchvision.datasets.DTD downloads it)"
    facts = Facts(
        *(47, 2820, 1128, 1692),
        link="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        download=Download("DTD", {"dtd/dtd/images": "images"}),
    )
