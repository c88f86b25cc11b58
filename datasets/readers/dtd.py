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
        archive="dtd.zip",
        files={
            "split_zhou_DescribableTextures.json": "f26ebeccd2b58e68d70f07a0dc39fe49bf7b69024bac34396b954dfd87969c38"
        },
        sha256="5ba4d3000e60f5541ba15a082033ca0696eee68125e9c28edff3dbe22f04313b",
        download=Download("DTD", {"dtd/dtd/images": "images"}),
    )
