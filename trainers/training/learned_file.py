"""The learned prompts of phase 2 as a safetensors file in the run's folder.

Format 2 has the metadata entry `caspl`, a JSON object with format and checksum. Files of format 1 have no metadata.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..storage.atomic import replacing
from ..storage.checksums import checksum

LEARNED = "adapting.safetensors"  # in a run's folder
FORMAT = 2
_ENTRY = "caspl"  # one entry alone: safetensors writes several in any order


class LearnedFileError(ValueError):
    """A file of learned prompts that cannot be read."""


def save_learned(state: Mapping[str, Tensor], target: Path, more: Mapping[str, Any] | None = None) -> None:
    """Write learned parameters atomically; the same parameters give the same bytes.

    Args:
        state: {name: tensor}, a checkpoint's "state_dict".
        target: the file.
        more: further metadata, JSON values.
    """
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in sorted(state.items())}
    described = {"format": FORMAT, **(more or {})}
    described["checksum"] = checksum(tensors, described)
    with replacing(target) as aside:
        save_file(tensors, aside, {_ENTRY: json.dumps(described, sort_keys=True)})


def read_learned(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of learned prompts.

    Returns:
        {name: tensor}, and the metadata; empty for format 1.

    Raises:
        LearnedFileError: it cannot be read, was changed after it was written, or is of a newer format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}
            described = json.loads((file.metadata() or {}).get(_ENTRY, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise LearnedFileError(
            f"{path}: not readable as safetensors ({error}); expected learned prompts. Copy it again, or train again"
        ) from error
    if not described:
        return tensors, {}
    if described.get("format") != FORMAT:
        raise LearnedFileError(f"{path}: format {described.get('format')!r}; expected {FORMAT}. Update CasPL")
    if described.get("checksum") != checksum(tensors, described):
        raise LearnedFileError(
            f"{path}: its values or metadata were changed after it was written; expected those of its checksum. Copy it again, "
            "or train again"
        )
    return tensors, described
