"""Datasets whose images are listed, in files or folders, and that may still have to be divided."""

import logging
import os

from dassl.data.datasets import Datum

from .base import FewShotDataset
from .errors import DatasetError, MissingImagesError
from .folders import class_folders, list_classes
from .splits import check_split, divide, missing_images, read_split

logger = logging.getLogger(__name__)

OWN_SPLIT = "split_own.json"


class ListedDataset(FewShotDataset):
    """A subclass implements `list_images`; checks and the division into train, val and test happen here.

    A division made here is kept (`split_own.json`). If images are added or removed later on, that is an error, not
    a new division, in which training images could become test images.

    Class attributes:
        image_dir: the folder in the dataset's folder that listed paths start from.
    """

    image_dir = ""

    def list_images(self):
        """Returns (parts, source): a split as in `splits.py`, and the file or folder that messages name."""
        raise NotImplementedError(f"{type(self).__name__} has to implement list_images()")

    def read(self, root):
        """See FewShotDataset.read."""
        image_dir = self.require(self.image_dir)
        parts, source = self.list_images()
        check_split(parts, source)
        missing = missing_images(parts, image_dir)
        if missing:
            total = sum(len(items) for items in parts.values())
            examples = ", ".join(missing[:3])
            raise MissingImagesError(
                f"{source}: {len(missing)} of its {total} images do not exist: {examples}\n{self.help_text()}",
                _without(parts, image_dir, set(missing)),
            )
        if "train" not in parts:
            parts = self._divided(parts, source)
        return tuple(datums(parts[part], image_dir) if part in parts else None for part in ("train", "val", "test"))

    def _divided(self, parts, source):
        kept = self.kept.find(OWN_SPLIT)
        if not kept:
            divided = divide(parts, source)
            logger.info("Divided at random into %s: kept in %s", _sizes(divided), self.kept.write(OWN_SPLIT, divided))
            return divided
        divided = read_split(kept)
        if sorted(e for items in divided.values() for e in items) != sorted(
            e for items in parts.values() for e in items
        ):
            raise DatasetError(
                f"{kept} is not a division of the images that {source} has now: delete it to divide anew"
            )
        logger.info("Division into %s read from %s", _sizes(divided), kept)
        return divided


class SplitFileDataset(ListedDataset):
    """A dataset of the CoOp family with a published split, `split_zhou_<class name>.json`.

    Without that file the raw annotations are read, by default class folders, and the log says so.

    Class attributes:
        image_folders: the folders of images, for messages, where `image_dir` does not say it.
        annotations: the files that stand in for the split file, if any.
        rename: {folder: class name} and `skip`: folders to leave out; for class folders only.
    """

    image_folders = ()
    annotations = ()
    rename = {}
    skip = ()

    @property
    def split_file(self):
        """The published split's file name."""
        return f"split_zhou_{type(self).__name__}.json"

    @property
    def layout(self):
        """See FewShotDataset."""
        folders = self.image_folders or (self.image_dir,)
        instead = ", ".join(self.annotations) or "the class folders alone"
        return (
            *(f"{folder}/" for folder in folders),
            f"{self.split_file} (the published split, see CoOp's DATASETS.md; without it: {instead})",
        )

    @property
    def split_in_use(self):
        """See FewShotDataset."""
        if (self.folder / self.split_file).is_file():
            return f"published ({self.split_file})"
        return f"raw annotations ({', '.join(self.annotations) or 'class folders'}), not the published split"

    def list_images(self):
        """The published split, or else what `list_raw` finds."""
        path = self.folder / self.split_file
        if path.is_file():
            return read_split(path), path
        parts, source = self.list_raw()
        logger.warning(
            "%s: no %s in %s. Using the raw annotations (%s): this is not the published split, results do "
            "not compare with published ones. The CoOp repository's DATASETS.md links the file",
            type(self).__name__, self.split_file, self.folder, source,
        )  # fmt: skip
        return parts, source

    def list_raw(self):
        """Class folders in alphabetical order, all to be divided; a subclass may read annotations instead."""
        image_dir = self.folder / self.image_dir
        names = {folder: self.rename.get(folder, folder) for folder in list_classes(image_dir, self.skip)}
        return {"all": class_folders(image_dir, names)}, image_dir


def datums(entries, image_dir):
    """list of Datum of the entries of a split, whose paths start from `image_dir`."""
    return [
        Datum(impath=os.path.normpath(os.path.join(image_dir, path)), label=label, classname=name)
        for path, label, name in entries
    ]


def _without(parts, image_dir, missing):
    return {
        part: datums((entry for entry in items if os.path.join(image_dir, entry[0]) not in missing), image_dir)
        for part, items in parts.items()
    }


def _sizes(parts):
    return ", ".join(f"{len(items)} {part}" for part, items in parts.items())
