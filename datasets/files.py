"""Reading lists; keeping small JSON files beside the data, or under the output where those are read-only."""

import contextlib
import json
import logging
import os
import uuid
from pathlib import Path

from .errors import DatasetError

logger = logging.getLogger(__name__)


def read_text(path):
    """The content of a text file in UTF-8, with or without a byte order mark.

    Raises:
        DatasetError: it is in another encoding.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not text in UTF-8 ({error}): save it as UTF-8") from error


def read_json(path):
    """The content of a JSON file.

    Raises:
        DatasetError: it is not JSON (cut off, or an error page saved in its place).
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except ValueError as error:
        raise DatasetError(f"{path} is not JSON ({error}): fetch it again, or delete it") from error


def write_json(path, content):
    """Write aside, flush, rename: a reader, or a second writer, only ever meets a whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(aside, "x", encoding="utf-8") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise


def read_lines(path):
    """The lines of a text file, stripped, without empty ones and comments (#)."""
    lines = (line.strip() for line in read_text(path).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def read_pairs(path):
    """{first word: rest} of every line, in order ("n01440764 tench"); if there is a tab, it divides instead.

    Raises:
        DatasetError: a line without two parts, or a first word that comes twice.
    """
    pairs = {}
    for line in read_lines(path):
        key, _, value = (part.strip() for part in line.partition("\t" if "\t" in line else " "))
        if not value:
            raise DatasetError(f'{path}: "{line}" should be a folder name, a space or tab, and a class name')
        if key in pairs:
            raise DatasetError(f'{path}: "{key}" is named twice')
        pairs[key] = value
    return pairs


class KeptFiles:
    """The files that a dataset keeps from one run to the next: few-shot draws and splits of its own.

    Args:
        folder: the dataset's folder, where they are kept if it is writable.
        output_dir: the run's output; otherwise they are kept in its `split_fewshot/`.
        dataset: the dataset's name, which keeps several datasets apart there.
    """

    def __init__(self, folder, output_dir, dataset):
        self.folder = Path(folder)
        self._fallback = Path(output_dir) / "split_fewshot"
        self._dataset = dataset

    def _places(self, name):
        return self.folder / name, self._fallback / f"{self._dataset}-{Path(name).name}"

    def find(self, name):
        """The path of the kept file `name`, or None."""
        return next((place for place in self._places(name) if place.is_file()), None)

    def write(self, name, content):
        """Keep `content` as JSON under `name`, relative to the dataset's folder; returns the path."""
        beside, fallback = self._places(name)
        try:
            write_json(beside, content)
            return beside
        except OSError as error:
            logger.warning("Cannot write %s (%s): keeping it as %s", beside, error.strerror or error, fallback)
        write_json(fallback, content)
        return fallback


class UnwrittenFiles(KeptFiles):
    """Finds what others have kept, and keeps nothing: for who only looks."""

    def write(self, name, content):
        """The path where it would be kept."""
        return self._places(name)[0]
