"""Datasets in the CoOp family's layouts, and your own images. Importing this registers them with Dassl.

`dassl.data.datasets.DATASET_REGISTRY.registered_names()` lists them; nothing is read before one is built.
"""

from . import annotated_datasets, folder_datasets, imagenet, own_images, shapes  # noqa: F401
from .base import FewShotDataset
from .errors import DatasetError, DatasetNotFoundError, MissingImagesError

__all__ = ["DatasetError", "DatasetNotFoundError", "FewShotDataset", "MissingImagesError"]
