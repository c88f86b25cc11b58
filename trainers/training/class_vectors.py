"""The class vectors of a student without a text tower, kept with its learned prompts under the names of the classes.

A checkpoint has the names as the entry "class_names" next to its state dict, `adapting.safetensors` in its metadata; the
vectors are the tensor "class_vectors" in both. Earlier versions kept neither.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import ConfigError
from ..storage.tensors import read_checkpoint
from .learned_file import LEARNED, read_learned

NAMES, TENSOR = "class_names", "class_vectors"


@dataclass(frozen=True)
class ClassVectors:
    """One vector for each class name.

    Args:
        names: C class names.
        vectors: (C, E), normalised, in float32.
    """

    names: tuple[str, ...]
    vectors: Tensor

    def unknown(self, names: Sequence[str]) -> list[str]:
        """Return the names that have no vector."""
        return [name for name in names if name not in self.names]

    def of(self, names: Sequence[str]) -> Tensor:
        """Return the vectors of these classes, (len(names), E)."""
        return self.vectors[[self.names.index(name) for name in names]]


def read_class_vectors(run: Path, learner: str) -> ClassVectors | None:
    """Return the class vectors that a run keeps.

    None if it was made by an earlier version.

    Args:
        run: its folder.
        learner: name of the folder of its checkpoints.

    Raises:
        LearnedFileError, RestrictedReadError: a file is damaged.
        ConfigError: its vectors and its class names do not fit each other.
    """
    if (run / LEARNED).is_file():
        tensors, described = read_learned(run / LEARNED)
        if NAMES in described:
            return _checked(run / LEARNED, described[NAMES], tensors.get(TENSOR))
    for path in sorted((run / learner).glob("model*.pth.tar*")):
        content = read_checkpoint(path)
        if isinstance(content, dict) and NAMES in content:
            return _checked(path, content[NAMES], content["state_dict"].get(TENSOR))
    return None


def _checked(path: Path, names: Any, vectors: Any) -> ClassVectors:
    valid = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not valid or not isinstance(vectors, Tensor) or vectors.dim() != 2 or len(vectors) != len(names):
        found = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
        raise ConfigError(f"{path}: {TENSOR} {found}; expected a vector for each of its class names. Train again")
    if not vectors.isfinite().all():
        raise ConfigError(f"{path}: {TENSOR} has values that are not finite. Train again")
    return ClassVectors(tuple(names), vectors.float())
