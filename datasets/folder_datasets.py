"""The datasets that are nothing but class folders and a split file: declarations."""

from dassl.data.datasets import DATASET_REGISTRY

from .listed import SplitFileDataset


@DATASET_REGISTRY.register()
class Caltech101(SplitFileDataset):
    """Caltech-101 (Fei-Fei et al., 2004): objects, 100 classes here."""

    dataset_dir = "caltech-101"
    image_dir = "101_ObjectCategories"
    skip = ("BACKGROUND_Google", "Faces_easy")
    rename = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}
    source = "the Caltech 101 page of CaltechDATA (torchvision.datasets.Caltech101 downloads it)"


@DATASET_REGISTRY.register()
class Food101(SplitFileDataset):
    """Food-101 (Bossard et al., 2014): dishes, 101 classes."""

    dataset_dir = "food-101"
    image_dir = "images"
    source = "the Food-101 page of ETH Zurich's Computer Vision Lab (torchvision.datasets.Food101 downloads it)"


@DATASET_REGISTRY.register()
class DescribableTextures(SplitFileDataset):
    """Describable Textures Dataset, DTD (Cimpoi et al., 2014): textures, 47 classes."""

    dataset_dir = "dtd"
    image_dir = "images"
    source = "the DTD page of Oxford's Visual Geometry Group (torchvision.datasets.DTD downloads it)"


@DATASET_REGISTRY.register()
class EuroSAT(SplitFileDataset):
    """EuroSAT, RGB (Helber et al., 2019): satellite pictures of land use, 10 classes."""

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
