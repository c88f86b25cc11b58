"""The images of a run: decoded once if they fit into memory, augmented reproducibly.

An augmentation is a function of (seed, view, index), where the view is the epoch modulo the number of views. It depends
neither on the number of data workers nor on earlier draws.
"""

import logging
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from dassl.utils import read_image
from PIL import Image
from torch.utils.data import Dataset
from yacs.config import CfgNode

from ..engine.memory import free_bytes
from . import parallel
from .rng import drawing_from

logger = logging.getLogger(__name__)

MOST_KEPT = 50_000  # images; reading the headers of more takes too long
SHARE_OF_MEMORY = 0.2  # share of the free memory for the kept images of all processes of this machine


class ImageDataset(Dataset):
    """Items of a batch: {"img", "label", "domain", "impath", "index"}.

    Args:
        cfg: the run's configuration, of which `SEED` is read.
        data_source: the images, a list of Dassl's `Datum`; an item with a method `read` decodes itself.
        transform: from a PIL image to what "img" contains; None: the image.
        is_train: whether the images are augmented.

    Attributes:
        epoch: set it before each epoch, before the loader starts its workers, which copy it.
        views: number of augmentations of an image, in turn; 0: another one in each epoch.
        kept: decoded images (H, W, 3) by path; empty if none are kept.
    """

    def __init__(
        self,
        cfg: CfgNode,
        data_source: list,
        transform: Callable[[Image.Image], Any] | None = None,
        is_train: bool = False,
    ):
        self.data_source = data_source
        self.transform = transform
        self.is_train = is_train
        self.seed = cfg.SEED if cfg.SEED >= 0 else random.getrandbits(32)
        self.epoch, self.views = 0, 0
        self.kept: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.data_source)

    @property
    def view(self) -> int:
        """The number of the augmentation that this epoch shows."""
        return self.epoch % self.views if self.views else self.epoch

    def __getitem__(self, index: int) -> dict:
        item = self.data_source[index]
        return {
            "img": self._transformed(self._image(item), index),
            "label": item.label,
            "domain": item.domain,
            "impath": item.impath,
            "index": index,
        }

    def _image(self, item: Any) -> Image.Image:
        kept = self.kept.get(item.impath)
        return decoded(item) if kept is None else Image.fromarray(kept)

    def _transformed(self, image: Image.Image, index: int) -> Any:
        if self.transform is None:
            return image
        if not self.is_train:
            return self.transform(image)
        with drawing_from(self.seed, self.view, index):
            return self.transform(image)

    def keep(self) -> bool:
        """Decode all images and keep them, unless they are too many or too large.

        Return whether they are kept.

        Raises:
            OSError: an image cannot be decoded.
        """
        items = {item.impath: item for item in self.data_source}
        if len(items) > MOST_KEPT:
            return False
        budget = (free_bytes(torch.device("cpu")) or 0) * SHARE_OF_MEMORY / parallel.processes_here()
        size = sum(map(_decoded_bytes, items))
        if size > budget:
            logger.info(
                "Images are decoded in each epoch: keeping %.0f MB would exceed %.0f MB", size / 1e6, budget / 1e6
            )
            return False
        with ThreadPoolExecutor(parallel.cores()) as pool:  # decoding releases the interpreter's lock
            images = pool.map(lambda item: np.asarray(decoded(item)), items.values())
            self.kept = dict(zip(items, images, strict=True))
        logger.info("Kept %d decoded images (%.1f MB of %.0f MB)", len(items), size / 1e6, budget / 1e6)
        return True


def decoded(item: Any) -> Image.Image:
    """Return the RGB image of a `Datum`, by its own `read` if it has one."""
    return item.read() if hasattr(item, "read") else read_image(item.impath)


def _decoded_bytes(path: str) -> int:
    """Return the size of a decoded image by its header; 0 if it is unreadable, which decoding reports."""
    try:
        with Image.open(path) as image:
            return 3 * image.width * image.height
    except Exception:  # Pillow reports damage with many exception types
        return 0
