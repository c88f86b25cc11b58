"""Published facts of the fifteen datasets: how many classes and images their splits have, and where they come from.

The counts are those of the CoOp paper (Zhou et al., 2022, its table of datasets) and of the test sets' own papers.
"""

from typing import NamedTuple

SPLITS = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"  # links the split files and classnames.txt


class Published(NamedTuple):
    """Numbers of classes and of images in each part (None: not published, or not a part), and the data's page."""

    classes: int
    train: int | None
    val: int | None
    test: int
    link: str


_VGG = "https://www.robots.ox.ac.uk/~vgg/data"
PUBLISHED = {
    "ImageNet": Published(1000, 1281167, None, 50000, "https://image-net.org/download.php"),
    "Caltech101": Published(100, 4128, 1649, 2465, "https://data.caltech.edu/records/mzrjq-6wc02"),
    "OxfordPets": Published(37, 2944, 736, 3669, f"{_VGG}/pets/"),
    "StanfordCars": Published(196, 6509, 1635, 8041, "http://ai.stanford.edu/~jkrause/cars/car_dataset.html"),
    "OxfordFlowers": Published(102, 4093, 1633, 2463, f"{_VGG}/flowers/102/"),
    "Food101": Published(101, 50500, 20200, 30300, "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/"),
    "FGVCAircraft": Published(100, 3334, 3333, 3333, f"{_VGG}/fgvc-aircraft/"),
    "SUN397": Published(397, 15880, 3970, 19850, "https://vision.princeton.edu/projects/2010/SUN/"),
    "DescribableTextures": Published(47, 2820, 1128, 1692, f"{_VGG}/dtd/"),
    "EuroSAT": Published(10, 13500, 5400, 8100, "https://github.com/phelber/EuroSAT"),
    "UCF101": Published(101, 7639, 1898, 3783, "https://www.crcv.ucf.edu/data/UCF101.php"),
    "ImageNetV2": Published(1000, None, None, 10000, "https://github.com/modestyachts/ImageNetV2"),
    "ImageNetSketch": Published(1000, None, None, 50889, "https://github.com/HaohanWang/ImageNet-Sketch"),
    "ImageNetA": Published(200, None, None, 7500, "https://github.com/hendrycks/natural-adv-examples"),
    "ImageNetR": Published(200, None, None, 30000, "https://github.com/hendrycks/imagenet-r"),
}
