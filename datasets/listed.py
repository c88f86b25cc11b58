"""Datasets whose images are listed in files or folders, with or without a division into train, val and test."""

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from .base import FewShotDataset, Items
from .class_folders import Entry, list_classes, list_images
from .errors import DatasetError, MissingImagesError
from .splits import PARTS, ImageFiles, Split, check_split, divide, read_split

logger = logging.getLogger(__name__)

OWN_SPLIT = "split_own.json"


class ListedDataset(FewShotDataset):
    """A dataset whose subclass lists the images.

    Checks and the division into train, val and test happen here.

    A division made here is saved as `split_own.json`. Images that are added or removed later are an error instead of a
    new division, which could turn training images into test images.

    Class attributes:
        image_dir: the folder in the dataset's folder that listed paths are relative to.
    """

    image_dir = ""

    def list_split(self) -> tuple[Split, Path]:
        """Return a split as described in `splits`, and the file or folder that messages name."""
        raise NotImplementedError(f"{type(self).__name__} must implement list_split()")

    def read(self, root: Path) -> tuple[Items, Items | None, Items]:
        image_dir = self.require(self.image_dir)
        parts, source = self.list_split()
        check_split(parts, source, image_dir)
        files = ImageFiles(parts, image_dir)
        if files.missing:
            total, examples = sum(len(items) for items in parts.values()), ", ".join(files.missing[:3])
            raise MissingImagesError(
                f"{source}: {len(files.missing)} of {total} listed images do not exist: {examples}; {self.help_text()}",
                self._existing(parts, image_dir, set(files.missing)),
            )
        self._check_shared(files, source)
        if "train" not in parts:
            parts = self._divided(parts, source)
        val = self.make_items(parts["val"], image_dir) if "val" in parts else None
        return self.make_items(parts["train"], image_dir), val, self.make_items(parts["test"], image_dir)

    def _check_shared(self, files: ImageFiles, source: Path) -> None:
        """Reject (for published datasets: remark) one file under two names."""
        shared = files.shared() or (files.hard_linked() if self.own_images else None)
        if not shared:
            return
        fault = f"{source}: {shared[0]} and {shared[1]} are the same file"
        if self.own_images:
            raise DatasetError(f"{fault}; expected each image once. Remove one of them")
        self.remark(f"{fault}: an image may be used for both training and testing")

    def _existing(self, parts: Split, image_dir: Path, missing: set[str]) -> dict[str, Items]:
        return {
            part: self.make_items((e for e in items if os.path.join(image_dir, e[0]) not in missing), image_dir)
            for part, items in parts.items()
        }

    def _divided(self, parts: Split, source: Path) -> Split:
        path = self.kept.find(OWN_SPLIT)
        if path:
            try:
                divided = read_split(path)
                if _sorted_entries(divided) != _sorted_entries(parts):
                    raise DatasetError(
                        f"{path}: does not contain the current images of {source}. Delete it to divide again"
                    )
                logger.info("Loaded the split into %s from %s", _sizes(divided), path)
                return divided
            except DatasetError as error:
                if not self.kept.replaceable(path):
                    raise
                logger.warning("Dividing again: %s", error)
        divided = divide(parts, source)
        saved = self.kept.write(OWN_SPLIT, divided)
        logger.info("Random split into %s%s", _sizes(divided), f", saved to {saved}" if saved else "")
        return divided


class SplitFileDataset(ListedDataset):
    """A dataset of the CoOp family with a published split, `split_zhou_<class name>.json`.

    Without that file, the raw annotations (by default class folders) are read, with a warning.

    Class attributes:
        image_folders: the folders of images, for messages, if `image_dir` does not contain them all.
        annotations: the files that replace the split file, if any.
        rename: {folder: class name}, for class folders only.
        skip: class folders to leave out.
    """

    image_folders: Sequence[str] = ()
    annotations: Sequence[str] = ()
    rename: ClassVar[Mapping[str, str]] = {}
    skip: Collection[str] = ()

    @property
    def split_file(self) -> str:
        """The published split's file name."""
        return f"split_zhou_{type(self).__name__}.json"

    def describe_layout(self) -> Sequence[str]:
        folders = self.image_folders or (self.image_dir,)
        alternative = ", ".join(self.annotations) or "the class folders alone"
        return (
            *(f"{folder}/" for folder in folders),
            f"{self.split_file} (the published split, see CoOp's DATASETS.md; without it: {alternative})",
        )

    @property
    def split_in_use(self) -> str:
        """The origin of the division into train, val and test, in a few words."""
        if not self.incomplete:
            return f"published ({self.split_file})"
        return f"raw annotations ({', '.join(self.annotations) or 'class folders'}), not the published split"

    @property
    def incomplete(self) -> str:
        """Why results do not compare with published ones: the split file is missing ("": it exists)."""
        if (self.folder / self.split_file).is_file():
            return ""
        return f"{self.split_file} is missing: results do not compare with published ones"

    def list_split(self) -> tuple[Split, Path]:
        path = self.folder / self.split_file
        if path.is_file():
            return read_split(path), path
        parts, source = self.list_raw()
        logger.warning(
            "%s: no %s in %s. Using the raw annotations (%s): not the published split, results do not compare with "
            "published ones. The CoOp repository's DATASETS.md links the file",
            *(type(self).__name__, self.split_file, self.folder, source),
        )
        return parts, source

    def list_raw(self) -> tuple[Split, Path]:
        """Return an undivided split of the class folders in alphabetical order.

        A subclass may read annotations.
        """
        image_dir = self.folder / self.image_dir
        names = {folder: self.rename.get(folder, folder) for folder in list_classes(image_dir, self.skip)}
        return {"all": list_images(image_dir, names, self.skipped)}, image_dir


def _sorted_entries(parts: Split) -> list[Entry]:
    return sorted(entry for items in parts.values() for entry in items)


def _sizes(parts: Split) -> str:
    return ", ".join(f"{len(parts[part])} {part}" for part in PARTS if part in parts)
