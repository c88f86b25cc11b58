"""From a data set to batches: `DataManager` holds the data set and its loaders."""

import logging

import torch
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms import Compose, Resize, ToTensor

from dassl.utils import read_image

from .datasets import build_dataset
from .samplers import build_sampler
from .transforms import INTERPOLATION_MODES, build_transform
from .transforms.transforms import interpolation_mode, normalization

__all__ = ["INTERPOLATION_MODES", "DataManager", "DatasetWrapper", "build_data_loader"]

logger = logging.getLogger(__name__)


def build_data_loader(
    cfg,
    sampler_type="SequentialSampler",
    data_source=None,
    batch_size=64,
    n_domain=0,
    n_ins=2,
    tfm=None,
    is_train=True,
    dataset_wrapper=None,
):
    """A loader of what `DatasetWrapper` gives. In training, an incomplete last batch is dropped.

    Args:
        sampler_type, n_domain, n_ins: see `dassl.data.samplers`.
        data_source: list of `Datum`.
        tfm: transform, or a list or tuple of them.
        dataset_wrapper: a class to use instead of `DatasetWrapper`.

    Raises:
        ValueError: there is no data, or it does not fill one batch.
    """
    what = "training" if is_train else "evaluation"
    if not data_source:
        raise ValueError(f"{cfg.DATASET.NAME}: no images to build the {what} loader from")
    wrapper = dataset_wrapper or DatasetWrapper
    loader = torch.utils.data.DataLoader(
        wrapper(cfg, data_source, transform=tfm, is_train=is_train),
        batch_size=batch_size,
        sampler=build_sampler(
            sampler_type,
            cfg=cfg,
            data_source=data_source,
            batch_size=batch_size,
            n_domain=n_domain,
            n_ins=n_ins,
        ),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        drop_last=is_train and len(data_source) >= batch_size,
        pin_memory=torch.cuda.is_available() and cfg.USE_CUDA,
    )
    if len(loader) == 0:
        raise ValueError(
            f"{cfg.DATASET.NAME}: the {what} loader has no batch; {sampler_type} draws {len(loader.sampler)} "
            f"of {len(data_source)} images, the batch size is {batch_size}"
        )
    return loader


class DataManager:
    """The data set `cfg.DATASET.NAME` (`dataset`) and its loaders.

    Attributes: `train_loader_x`, `train_loader_u` and `val_loader` (None without such data), `test_loader`,
    `num_classes`, `num_source_domains`, `lab2cname`.

    Args:
        custom_tfm_train, custom_tfm_test: transforms instead of those of `cfg.INPUT`.
        dataset_wrapper: a class to use instead of `DatasetWrapper`.
    """

    def __init__(self, cfg, custom_tfm_train=None, custom_tfm_test=None, dataset_wrapper=None):
        self.dataset = dataset = build_dataset(cfg)
        tfm_train = self._transform(cfg, custom_tfm_train, is_train=True)
        tfm_test = self._transform(cfg, custom_tfm_test, is_train=False)

        def train_loader(data_source, node):
            return build_data_loader(
                cfg,
                sampler_type=node.SAMPLER,
                data_source=data_source,
                batch_size=node.BATCH_SIZE,
                n_domain=node.N_DOMAIN,
                n_ins=node.N_INS,
                tfm=tfm_train,
                is_train=True,
                dataset_wrapper=dataset_wrapper,
            )

        def test_loader(data_source):
            return build_data_loader(
                cfg,
                sampler_type=cfg.DATALOADER.TEST.SAMPLER,
                data_source=data_source,
                batch_size=cfg.DATALOADER.TEST.BATCH_SIZE,
                tfm=tfm_test,
                is_train=False,
                dataset_wrapper=dataset_wrapper,
            )

        node_x, node_u = cfg.DATALOADER.TRAIN_X, cfg.DATALOADER.TRAIN_U
        self.train_loader_x = train_loader(dataset.train_x, node_x)
        self.train_loader_u = None
        if dataset.train_u:
            self.train_loader_u = train_loader(dataset.train_u, node_x if node_u.SAME_AS_X else node_u)
        self.val_loader = test_loader(dataset.val) if dataset.val else None
        self.test_loader = test_loader(dataset.test)
        self._num_source_domains = len(cfg.DATASET.SOURCE_DOMAINS)
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    @staticmethod
    def _transform(cfg, custom, is_train):
        if custom is None:
            return build_transform(cfg, is_train=is_train)
        logger.info("Transform for %s: a custom one", "training" if is_train else "testing")
        return custom

    @property
    def num_classes(self):
        return self.dataset.num_classes

    @property
    def num_source_domains(self):
        return self._num_source_domains

    @property
    def lab2cname(self):
        return self.dataset.lab2cname

    def show_dataset_summary(self, cfg):
        """Log the sizes of the data set."""
        rows = {
            "Dataset": cfg.DATASET.NAME,
            "Source": ", ".join(cfg.DATASET.SOURCE_DOMAINS),
            "Target": ", ".join(cfg.DATASET.TARGET_DOMAINS),
            "# classes": f"{self.num_classes:,}",
        }
        for split in ("train_x", "train_u", "val", "test"):
            rows[f"# {split}"] = f"{len(items):,}" if (items := getattr(self.dataset, split)) else ""
        logger.info("\n".join(f"{name:10} {value}" for name, value in rows.items() if value))


class DatasetWrapper(TorchDataset):
    """Items of a batch: {"img", "label", "domain", "impath", "index"}.

    With a list of transforms there are also "img2", "img3", ...; in training, with DATALOADER.K_TRANSFORMS
    above 1, each is a list; with DATALOADER.RETURN_IMG0 there is also "img0", only resized (and normalised).

    Raises:
        ValueError: DATALOADER.K_TRANSFORMS > 1 without a transform.
    """

    def __init__(self, cfg, data_source, transform=None, is_train=False):
        self.cfg = cfg
        self.data_source = data_source
        self.transform = transform
        self.is_train = is_train
        self.k_tfm = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        self.return_img0 = cfg.DATALOADER.RETURN_IMG0
        if self.k_tfm > 1 and transform is None:
            raise ValueError(f"DATALOADER.K_TRANSFORMS is {self.k_tfm}, but there is no transform to repeat")
        steps = [Resize(cfg.INPUT.SIZE, interpolation=interpolation_mode(cfg.INPUT)), ToTensor()]
        if "normalize" in cfg.INPUT.TRANSFORMS:
            steps.append(normalization(cfg.INPUT))
        self.to_tensor = Compose(steps)

    def __len__(self):
        return len(self.data_source)

    def __getitem__(self, idx):
        item = self.data_source[idx]
        img0 = read_image(item.impath)
        output = {"label": item.label, "domain": item.domain, "impath": item.impath, "index": idx}
        if self.transform is None:
            output["img"] = img0
        else:
            several = isinstance(self.transform, (list, tuple))
            for i, tfm in enumerate(self.transform if several else [self.transform]):
                output[f"img{i + 1}" if i else "img"] = self._transform_image(tfm, img0)
        if self.return_img0:
            output["img0"] = self.to_tensor(img0)
        return output

    def _transform_image(self, tfm, img0):
        images = [tfm(img0) for _ in range(self.k_tfm)]
        return images[0] if len(images) == 1 else images
