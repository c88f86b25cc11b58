"""EuroSAT, RGB (Helber et al., 2019)."""

from dassl.data.datasets import DATASET_REGISTRY

from ..facts import Download, Facts
from ..listed import SplitFileDataset


@DATASET_REGISTRY.register()
class EuroSAT(SplitFileDataset):
    """EuroSAT: satellite images of land use, 10 classes."""

    dataset_dir = "eurosat"
    image_dir = "2750"
    rename = {
        "AnnualCrop": "Annual Crop Land",
        "Forest": "Forest",
        "HerbaceousVegetation": "Herbaceous Vegetation Land",
        "Highway": "Highway or Road",
        "Industrial": "Industrial Buildings",
        "Pasture": "Pasture Land",
        "PermanentCrop": "Permanent Crop Land",
        "Residential": "Residential Buildings",
        "River": "River",
        "SeaLake": "Sea or Lake",
    }
    source = "the EuroSAT repository (github.com/phelber/EuroSAT; torchvision.datasets.EuroSAT downloads it)"
    facts = Facts(
        *(10, 13500, 5400, 8100),
        link="https://github.com/phelber/EuroSAT",
        licence="MIT",
        archive="eurosat.zip",
        files={"split_zhou_EuroSAT.json": "541503a77d0b26b735d85ec7a3e672804fe0aa466c2e5f07da772cc6c0af8ad2"},
        download=Download("EuroSAT", {"eurosat/2750": "2750"}),
    )
