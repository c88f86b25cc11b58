"""From a dataset to batches: `DataManager` holds the dataset and its loaders."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from yacs.config import CfgNode

from dassl.utils import read_image

from .datasets import Datum, build_dataset
from .samplers import build_sampler
from .transforms import build_transform

logger = logging.getLogger(__name__)


def build_data_loader(
    cfg: CfgNode,
    sampler_type: str = "SequentialSampler",
    data_source: Sequence[Datum] | None = None,
    batch_size: int = 64,
    tfm: Callable | None = None,
    is_train: bool = True,
    dataset_wrapper: type | None = None,
) -> DataLoader:
    """Build a loader of a dataset's items. In training, an incomplete last batch is dropped.

    Args:
        cfg: the whole configuration.
        sampler_type: a name of `dassl.data.samplers`.
        data_source: the items.
        batch_size: images per batch.
        tfm: from a PIL image to a tensor.
        is_train: whether the loader is for training.
        dataset_wrapper: the class that reads items; None: `DatasetWrapper`.

    Raises:
        ValueError: the list is empty.
    """
    if not data_source:
        kind = "training" if is_train else "evaluation"
        raise ValueError(f"{cfg.DATASET.NAME}: no images to build the {kind} loader from")
    wrapper = dataset_wrapper or DatasetWrapper
    return DataLoader(
        wrapper(cfg, data_source, transform=tfm, is_train=is_train),
        batch_size=batch_size,
        sampler=build_sampler(sampler_type, cfg=cfg, data_source=data_source),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        drop_last=is_train and len(data_source) >= batch_size,
        pin_memory=torch.cuda.is_available() and cfg.USE_CUDA,
    )


class DataManager:
    """The dataset `cfg.DATASET.NAME` and its loaders.

    Args:
        cfg: the whole configuration.
        custom_tfm_train: the transform of training; None: from `cfg.INPUT`.
        custom_tfm_test: the transform of validation and test; None: from `cfg.INPUT`.
        dataset_wrapper: the class that reads items; None: `DatasetWrapper`.

    Attributes:
        dataset: the dataset.
        train_loader_x, test_loader: loaders of labelled training images and of the test set.
        val_loader: loader of the validation set; None if there is none.
        train_loader_u: None; Dassl's loader of unlabelled images.
    """

    def __init__(
        self,
        cfg: CfgNode,
        custom_tfm_train: Callable | None = None,
        custom_tfm_test: Callable | None = None,
        dataset_wrapper: type | None = None,
    ):
        self.dataset = dataset = build_dataset(cfg)
        tfm_train = self._transform(cfg, custom_tfm_train, is_train=True)
        tfm_test = self._transform(cfg, custom_tfm_test, is_train=False)

        def loader(items: Sequence[Datum], node: CfgNode, is_train: bool) -> DataLoader:
            tfm = tfm_train if is_train else tfm_test
            return build_data_loader(cfg, node.SAMPLER, items, node.BATCH_SIZE, tfm, is_train, dataset_wrapper)

        self.train_loader_x = loader(dataset.train_x, cfg.DATALOADER.TRAIN_X, is_train=True)
        self.train_loader_u = None
        self.val_loader = loader(dataset.val, cfg.DATALOADER.TEST, is_train=False) if dataset.val else None
        self.test_loader = loader(dataset.test, cfg.DATALOADER.TEST, is_train=False)
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    @staticmethod
    def _transform(cfg: CfgNode, custom: Callable | None, is_train: bool) -> Callable | None:
        if custom is None:
            return build_transform(cfg, is_train=is_train)
        logger.info("Transform for %s: a custom one", "training" if is_train else "testing")
        return custom

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return self.dataset.num_classes

    @property
    def num_source_domains(self) -> int:
        """0: the family's datasets have no domains."""
        return 0

    @property
    def lab2cname(self) -> dict[int, str]:
        """{label: class name}."""
        return self.dataset.lab2cname

    def show_dataset_summary(self, cfg: CfgNode) -> None:
        """Log the sizes of the dataset."""
        rows = {"Dataset": cfg.DATASET.NAME, "# classes": f"{self.num_classes:,}"}
        for split in ("train_x", "val", "test"):
            if items := getattr(self.dataset, split):
                rows[f"# {split}"] = f"{len(items):,}"
        logger.info("\n".join(f"{name:10} {value}" for name, value in rows.items()))


class DatasetWrapper(TorchDataset):
    """Reads items as {"img", "label", "domain", "impath", "index"}.

    Args:
        cfg: the whole configuration.
        data_source: the items.
        transform: from a PIL image to a tensor; None: images remain PIL images.
        is_train: whether the items are for training.
    """

    def __init__(
        self, cfg: CfgNode, data_source: Sequence[Datum], transform: Callable | None = None, is_train: bool = False
    ):
        self.cfg = cfg
        self.data_source = data_source
        self.transform = transform
        self.is_train = is_train

    def __len__(self) -> int:
        return len(self.data_source)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        item = self.data_source[idx]
        image: Any = read_image(item.impath)
        if self.transform is not None:
            image = self.transform(image)
        return {"img": image, "label": item.label, "domain": item.domain, "impath": item.impath, "index": idx}
