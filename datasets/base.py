"""What all datasets have in common: configuration in, few-shot draw and base/new classes, clear errors."""

import os
import random
from pathlib import Path

from dassl.data.datasets import DatasetBase

from .draws import draw_name, load_draw, save_draw
from .errors import DatasetError, DatasetNotFoundError
from .fewshot import VAL_SHOTS, draw, select_classes, tell_shortage
from .files import KeptFiles, UnwrittenFiles


class FewShotDataset(DatasetBase):
    """A dataset of the CoOp family: a subclass says where the images are, the rest happens here, once.

    Reads `DATASET.ROOT`, `DATASET.NUM_SHOTS` (images a class, below 1: all), `DATASET.SUBSAMPLE_CLASSES`,
    `SEED` and `OUTPUT_DIR`. A draw that is on disk (`split_fewshot/`) is used again. A new one depends on the
    split, the shots and the seed alone: `random.Random(SEED)` picks what the CoOp repository picks after
    `set_random_seed(SEED)`. It is drawn before the base/new classes are selected, so both halves share it.

    Class attributes:
        dataset_dir: the dataset's folder below the root ("": the root itself).
        layout: what is expected in there, a line each; error messages show it.
        source: where to get the data, for error messages.

    Raises:
        DatasetNotFoundError: a folder or file is not there.
        DatasetError: what is there, or the configuration, is wrong.
    """

    dataset_dir = ""
    layout = ()
    source = ""

    def __init__(self, cfg):
        shots, seed, subsample = cfg.DATASET.NUM_SHOTS, cfg.SEED, _subsample(cfg)
        self._place(cfg.DATASET.ROOT, cfg.OUTPUT_DIR, KeptFiles)
        train, val, test = self.read(self.root)
        if shots >= 1:
            train, val = self._few_shot(train, val, test, shots, seed)
        train, val, test = select_classes((train, val, test), subsample)
        super().__init__(train_x=train, val=val, test=test)

    @classmethod
    def unread(cls, root, output_dir):
        """The dataset at `root` before anything is read, for who only looks: its `read` keeps no files."""
        dataset = cls.__new__(cls)
        dataset._place(root, output_dir, UnwrittenFiles)
        return dataset

    def _place(self, root, output_dir, kept):
        self.root = Path(os.path.abspath(os.path.expanduser(root)))
        self.folder = self.root / self.dataset_dir
        self.dataset_dir = str(self.folder)
        self.kept = kept(self.folder, output_dir, type(self).__name__)

    @property
    def split_in_use(self):
        """Where the division into train, val and test comes from, in a few words."""
        return "class folders"

    def read(self, root):
        """All images, before any draw.

        Args:
            root: `DATASET.ROOT`, a pathlib.Path, absolute; `self.folder` is the dataset's folder in it.
        Returns:
            (train, val, test): lists of Datum with absolute, normalised paths. `val` may be None. `train` or
            `val` may be the very list `test`: then it is not drawn from.
        """
        raise NotImplementedError(f"{type(self).__name__} has to implement read(root)")

    def require(self, relative=""):
        """The path `relative` in the dataset's folder, a pathlib.Path, after a check that it exists.

        Raises:
            DatasetNotFoundError: with the expected layout and the data's source.
        """
        path = self.folder / relative
        if not path.exists():
            raise DatasetNotFoundError(f"{type(self).__name__}: {path} does not exist.\n{self.help_text()}")
        return path

    def help_text(self):
        """The end of an error message: the expected layout, what is there instead, where to get the data."""
        there = self.folder
        while not there.is_dir():
            there = there.parent
        names = sorted(os.listdir(there))
        listing = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
        lines = [f"Expected in {self.folder} (DATASET.ROOT, or --root, is {self.root}):"]
        lines += [f"    {line}" for line in self.layout]
        return "\n".join([*lines, f"Get it from: {self.source}", f"In {there} there is: {listing or 'nothing'}"])

    def _few_shot(self, train, val, test, shots, seed):
        pools = {"train": train, "val": val}
        pools = {part: items for part, items in pools.items() if items and items is not test}
        drawn = load_draw(self.kept, draw_name(shots, seed), pools) if pools else {}
        sizes = {"train": shots, "val": min(shots, VAL_SHOTS)}
        if drawn is None:
            rng = random.Random(seed) if seed >= 0 else random  # a seed below 0: Dassl leaves `random` as it is
            drawn = {part: draw(items, sizes[part], rng) for part, items in pools.items()}
            save_draw(self.kept, draw_name(shots, seed), drawn)
        for part, items in drawn.items():
            tell_shortage(part, items, sizes[part])
        return drawn.get("train", train), drawn.get("val", val)


def _subsample(cfg):
    allowed = ("all", "base", "new")
    value = getattr(cfg.DATASET, "SUBSAMPLE_CLASSES", None)
    if value is None:
        raise DatasetError(
            "The configuration has no DATASET.SUBSAMPLE_CLASSES, which Dassl itself does not define: "
            'set cfg.DATASET.SUBSAMPLE_CLASSES = "all" (or "base", "new") where the configuration is extended'
        )
    if value not in allowed:
        raise DatasetError(f'DATASET.SUBSAMPLE_CLASSES is "{value}": it has to be one of {", ".join(allowed)}')
    return value
