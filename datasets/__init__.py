"""Dataset readers in the CoOp family's layouts, and readers of a user's own images.

Importing this package registers every reader in `dassl.data.datasets.DATASET_REGISTRY`; no data are read before a
dataset is built. A file in `readers/` plus a YAML file in `configs/datasets/` adds a dataset.
"""

from . import readers
from .base import FewShotDataset
from .errors import DatasetError, DatasetNotFoundError, MissingImagesError
from .identity import fingerprint

__all__ = ["DatasetError", "DatasetNotFoundError", "FewShotDataset", "MissingImagesError", "fingerprint"]

readers.register_all()
