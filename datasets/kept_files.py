"""JSON files that a dataset keeps between runs: few-shot draws and splits made here."""

import contextlib
import json
import logging
import os
import uuid
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically: concurrent readers see the old or the new file, never a part.

    Raises:
        OSError: the file cannot be written, or `path` exists and is not a regular file; the old file is unchanged.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OSError(f"{path}: not a regular file; only regular files are replaced. Delete it")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


class KeptFiles:
    """Files that a dataset keeps from one run to the next.

    Args:
        folder: the dataset's folder; existing files in it are always used, and new ones are written to it if possible.
        output_dir: the run's output folder; files that cannot be written to `folder` are written to its
            `split_fewshot/`.
        dataset: the dataset's name, the prefix of the files in the output folder.
    """

    def __init__(self, folder: str | os.PathLike[str], output_dir: str | os.PathLike[str], dataset: str) -> None:
        self.folder = Path(folder)
        self._output = Path(output_dir) / "split_fewshot"
        self._dataset = dataset

    def _candidates(self, name: str) -> tuple[Path, Path]:
        return self.folder / name, self._output / f"{self._dataset}-{Path(name).name}"

    def find(self, name: str) -> Path | None:
        """Return the path of the kept file `name`, or None if there is none."""
        return next((path for path in self._candidates(name) if path.is_file()), None)

    def write(self, name: str, content: Any) -> Path:
        """Write `content` as JSON; return the path.

        Args:
            name: path relative to the dataset's folder.
        """
        with_data, with_output = self._candidates(name)
        try:
            write_json(with_data, content)
            return with_data
        except OSError as error:
            logger.warning("Cannot write %s (%s): writing %s", with_data, error.strerror or error, with_output)
        write_json(with_output, content)
        return with_output


class UnwrittenFiles(KeptFiles):
    """Finds existing files and writes none, for read-only inspection."""

    def write(self, name: str, content: Any) -> Path:
        """Return the path that `KeptFiles` tries first."""
        return self._candidates(name)[0]
