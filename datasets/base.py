"""The base class of all datasets: reads the configuration, draws few shots, selects base or new classes."""

import logging
import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from dassl.data.datasets import DatasetBase, Datum

from .class_folders import Entry, Skipped
from .class_names import Encode, describe, indistinguishable, read_renaming
from .draw_files import draw_name, load_draw, save_draw
from .errors import DatasetError, DatasetNotFoundError
from .facts import Facts
from .few_shot import VAL_SHOTS, draw, select_classes, warn_shortage
from .identity import fingerprint_items
from .images import ImageDatum
from .kept_files import KeptFiles, UnwrittenFiles
from .layouts import suggest

logger = logging.getLogger(__name__)

Items = list[Datum]


class FewShotDataset(DatasetBase):
    """A dataset of the CoOp family.

    A subclass declares its layout and implements `read`.

    Reads `DATASET.ROOT`, `DATASET.NUM_SHOTS` (images per class, below 1: all), `DATASET.SUBSAMPLE_CLASSES`,
    `DATASET.CLASSNAMES` (optional: a file of new class names), `SEED` and `OUTPUT_DIR`. An existing draw in
    `split_fewshot/` is reused. A new draw depends only on the split, the shots and the seed: `random.Random(SEED)` picks
    the images that the CoOp repository picks after `set_random_seed(SEED)`. The draw precedes the selection of base/new
    classes, so both halves share it.

    Args:
        cfg: Dassl's configuration node with `DATASET.SUBSAMPLE_CLASSES` added.

    Class attributes:
        dataset_dir: the dataset's folder below the root ("": the root itself).
        layout: the expected content of that folder, one line each; see `describe_layout`.
        source: where to get the data, for error messages.
        facts: published counts, links and downloads.
        own_images: whether the data are a user's own: nothing is written to their folder, images are shown upright, and
            doubtful data are an error instead of a warning.

    Attributes:
        data_fingerprint: digest of all images and classes, see `identity.fingerprint`.
        remarks: warnings about the data, one line each, which are also logged.

    Raises:
        DatasetNotFoundError: a folder or file does not exist.
        DatasetError: existing data or the configuration is invalid.
    """

    dataset_dir = ""
    layout: Sequence[str] = ()
    source = ""
    facts: ClassVar[Facts] = Facts()
    own_images: ClassVar[bool] = False
    place: ClassVar[str] = "directly in their class folder"
    datum: ClassVar[type[Datum]] = ImageDatum

    def __init__(self, cfg: Any) -> None:
        shots, seed, subsample = cfg.DATASET.NUM_SHOTS, cfg.SEED, _subsample(cfg)
        self._locate(cfg.DATASET.ROOT, cfg.OUTPUT_DIR, KeptFiles)
        self.renaming_file = getattr(cfg.DATASET, "CLASSNAMES", "")
        train, val, test = self.read_all()
        if shots >= 1:
            train, val = self._few_shot(train, val, test, shots, seed)
        train_x, val, test_items = select_classes((train, val, test), subsample)
        self.inspect({"train": train_x, "val": val, "test": test_items})
        super().__init__(train_x=train_x, val=val, test=test_items)

    @classmethod
    def located(cls, root: str | os.PathLike[str], output_dir: str | os.PathLike[str]) -> "FewShotDataset":
        """Return an instance that has read nothing yet and whose `read` writes no files, for inspection.

        Args:
            root, output_dir: as `DATASET.ROOT` and `OUTPUT_DIR`.
        """
        dataset = cls.__new__(cls)
        dataset._locate(root, output_dir, UnwrittenFiles)
        return dataset

    def _locate(self, root: str | os.PathLike[str], output_dir: str | os.PathLike[str], kept: type[KeptFiles]) -> None:
        self.root = Path(os.path.abspath(os.path.expanduser(root)))
        self.folder = self.root / self.dataset_dir
        self.dataset_dir = str(self.folder)
        self.kept = kept(self.folder, output_dir, type(self).__name__, in_data=not self.own_images)
        self.skipped = Skipped()
        self.remarks: list[str] = []
        self.data_fingerprint = ""
        self.renaming_file = ""

    @classmethod
    def expected_counts(cls) -> dict[str, int | None]:
        """Return the published {"classes"|"train"|"val"|"test": number}.

        Empty if nothing is published.
        """
        return cls.facts.counts

    @property
    def split_in_use(self) -> str:
        """The origin of the division into train, val and test, in a few words."""
        return "class folders"

    @property
    def incomplete(self) -> str:
        """Why results do not compare with published ones although the data can be read ("": no reason)."""
        return ""

    def describe_layout(self) -> Sequence[str]:
        """Return the expected content of the dataset's folder, one line each, for messages."""
        return self.layout

    def read(self, root: Path) -> tuple[Items, Items | None, Items]:
        """List all images, before any draw.

        Args:
            root: `DATASET.ROOT`, absolute; `self.folder` is the dataset's folder in it.

        Returns:
            (train, val, test): lists of Datum with absolute, normalised paths. `val` may be None. If `train` or `val`
            is the same list object as `test`, nothing is drawn from it.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement read(root)")

    def read_all(self) -> tuple[Items, Items | None, Items]:
        """Return `read(root)`, classes renamed.

        Add remarks about skipped files and set `data_fingerprint`.
        """
        train, val, test = self.read(self.root)
        if self.renaming_file:
            train, val, test = self._renamed(train, val, test)
        if self.skipped:
            self.remark(f"{self.folder}: skipped {self.skipped}; expected images that Pillow reads, {self.place}")
        self.data_fingerprint = fingerprint_items({"train": train, "val": val, "test": test}, self.folder)
        return train, val, test

    def _renamed(self, train: Items, val: Items | None, test: Items) -> tuple[Items, Items | None, Items]:
        names = {item.label: item.classname for item in train}
        new = read_renaming(Path(os.path.expanduser(self.renaming_file)), [names[label] for label in sorted(names)])
        done: dict[int, Items] = {}  # a list that is used twice stays one list: see `read`
        for items in (train, val, test):
            if items is not None and id(items) not in done:
                done[id(items)] = [
                    type(i)(impath=i.impath, label=i.label, domain=i.domain, classname=new[names[i.label]])
                    for i in items
                ]
        return done[id(train)], None if val is None else done[id(val)], done[id(test)]

    def inspect(self, parts: dict[str, Items | None]) -> None:
        """Check the images that are used, {"train": list of Datum, ...}.

        By default nothing.
        """

    def remark(self, text: str) -> None:
        """Log a warning about the data and keep it in `remarks`."""
        logger.warning("%s", text)
        self.remarks.append(text)

    def check_class_names(self, encode: Encode) -> None:
        """Check that a model can tell the classes apart.

        Args:
            encode: the tokenizer of the backbone, from a text to its token ids.

        Raises:
            DatasetError: names of a user's own classes have identical tokens. Published datasets only get a remark.
        """
        groups = indistinguishable(list(self.classnames), encode)
        if not groups:
            return
        fault = f"{type(self).__name__}: identical tokens of the class names {describe(groups)}"
        if self.own_images:
            raise DatasetError(f"{fault}; expected distinct names. Rename classes, for example in classnames.txt")
        self.remark(f"{fault}; one class of each group is never predicted")

    def make_items(self, entries: Iterable[Entry], image_dir: str | os.PathLike[str]) -> Items:
        """Convert entries of a split to Datum.

        Args:
            entries: (path, label, class name).
            image_dir: the folder that relative paths start from.
        """
        return [
            self.datum(impath=os.path.normpath(os.path.join(image_dir, path)), label=label, classname=name)
            for path, label, name in entries
        ]

    def require(self, relative: str = "") -> Path:
        """Return the path `relative` in the dataset's folder after checking that it exists.

        Raises:
            DatasetNotFoundError: it does not exist; the message shows the expected layout and the data's source.
        """
        path = self.folder / relative
        if not path.exists():
            raise DatasetNotFoundError(f"{type(self).__name__}: {path} does not exist; {self.help_text()}")
        return path

    def help_text(self) -> str:
        """Return the end of an error message: expected layout, existing files, remedy."""
        nearest = self.folder
        while not nearest.is_dir():
            nearest = nearest.parent
        names = sorted(os.listdir(nearest))
        listing = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
        remedy = suggest(self.root, self.folder, self.describe_layout()) or f"Get the data from {self.source}"
        return (
            f"expected in {self.folder} (--data, --root or DATASET.ROOT is {self.root}): "
            f"{'; '.join(self.describe_layout())}. Content of {nearest}: {listing or 'nothing'}. {remedy}"
        )

    def _few_shot(
        self, train: Items, val: Items | None, test: Items, shots: int, seed: int
    ) -> tuple[Items, Items | None]:
        candidates = {"train": train, "val": val}
        pools = {part: items for part, items in candidates.items() if items and items is not test}
        sizes = {"train": shots, "val": min(shots, VAL_SHOTS)}
        drawn = load_draw(self.kept, draw_name(shots, seed), pools, sizes) if pools else {}
        if drawn is None:
            rng = random.Random(seed) if seed >= 0 else random  # Dassl does not seed `random` if SEED is negative
            drawn = {part: draw(items, sizes[part], rng) for part, items in pools.items()}
            save_draw(self.kept, draw_name(shots, seed), drawn)
        for part, items in drawn.items():
            warn_shortage(part, items, sizes[part])
        return drawn.get("train", train), drawn.get("val", val)


def _subsample(cfg: Any) -> str:
    allowed = ("all", "base", "new")
    value = getattr(cfg.DATASET, "SUBSAMPLE_CLASSES", None)
    if value is None:
        raise DatasetError(
            "DATASET.SUBSAMPLE_CLASSES: not defined; expected all, base or new. Dassl does not define this key: add "
            'cfg.DATASET.SUBSAMPLE_CLASSES = "all" where the configuration is extended'
        )
    if value not in allowed:
        raise DatasetError(f'DATASET.SUBSAMPLE_CLASSES: "{value}"; expected one of {", ".join(allowed)}')
    return value
