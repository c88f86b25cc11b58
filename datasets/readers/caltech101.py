"""Caltech-101 (Fei-Fei et al., 2004)."""

from dassl.data.datasets import DATASET_REGISTRY

from ..facts import Download, Facts
from ..listed import SplitFileDataset


@DATASET_REGISTRY.register()
class Caltech101(SplitFileDataset):
    """Caltech-101: objects, 100 classes here."""

    dataset_dir = "caltech-101"
    image_dir = "101_ObjectCategories"
    skip = ("BACKGROUND_Google", "Faces_easy")
    rename = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}
    source = "the Caltech 101 page of CaltechDATA (torchvision.datasets.Caltech101 downloads it)"
    facts = Facts(
        *(100, 4128, 1649, 2465),
        link="https://data.caltech.edu/records/mzrjq-6wc02",
        licence="CC BY 4.0",
        archive="caltech-101.zip",
        files={"split_zhou_Caltech101.json": "52ce83205ff8ff8a1a18119aad6376120ae35c36e783a984bc560cbf10e73fa5"},
        download=Download("Caltech101", {"caltech101/101_ObjectCategories": "101_ObjectCategories"}),
    )
