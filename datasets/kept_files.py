"""JSON files that a dataset keeps between runs: few-shot draws and splits made here."""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def _in_place(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    yield path


# Yields the path to write to. The programs put the package's atomic writer here, as this package imports none of theirs.
replacing: Callable[[Path], AbstractContextManager[Path]] = _in_place


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file.

    In the programs, concurrent readers see the old or the new file, never a part.

    Raises:
        OSError: the file cannot be written, or (in the programs) `path` exists and is not a regular file; the old file is
            unchanged.
    """
    with replacing(path) as target:
        target.write_text(json.dumps(content), encoding="utf-8")


class KeptFiles:
    """Files that a dataset keeps from one run to the next.

    Args:
        folder: the dataset's folder; existing files in it are always used.
        output_dir: the run's output folder; files that are not written to `folder` are written to its
            `split_fewshot/` ("": nowhere).
        dataset: the dataset's name, the prefix of the files in the output folder.
        in_data: whether new files are written to `folder` if possible. A user's own folders are never written to.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        output_dir: str | os.PathLike[str],
        dataset: str,
        in_data: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self._output = Path(output_dir) / "split_fewshot" if os.fspath(output_dir) else None
        self._dataset = dataset
        self._in_data = in_data

    def _in_output(self, name: str) -> Path | None:
        return self._output and self._output / f"{self._dataset}-{Path(name).name}"

    def find(self, name: str) -> Path | None:
        """Return the path of the kept file `name`, or None if there is none."""
        candidates = self.folder / name, self._in_output(name)
        return next((path for path in candidates if path and path.is_file()), None)

    def replaceable(self, path: Path) -> bool:
        """Return whether a kept file that does not match the data is replaced.

        Only files in the output folder are.
        """
        return path.parent == self._output and path.name.startswith(f"{self._dataset}-")

    def write(self, name: str, content: Any) -> Path | None:
        """Write `content` as JSON.

        Return the path, or None (with a warning) if it cannot be written anywhere.

        Args:
            name: path relative to the dataset's folder.
        """
        in_data, in_output = self.folder / name if self._in_data else None, self._in_output(name)
        for path, following in ((in_data, in_output), (in_output, None)):
            if path is None:
                continue
            try:
                write_json(path, content)
                return path
            except OSError as error:
                action = f"writing {following}" if following else "not saved, but reproducible from images and seed"
                cause = error.__cause__ or error
                logger.warning("Cannot write %s (%s): %s", path, getattr(cause, "strerror", None) or cause, action)
        return None


class UnwrittenFiles(KeptFiles):
    """Finds existing files and writes none, for read-only inspection."""

    def write(self, name: str, content: Any) -> Path | None:
        """Write nothing."""
        return None
