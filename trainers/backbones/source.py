"""A backbone by its name: its weights in OpenAI's layout, and everything else that its own configuration sets."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..engine import ClipSizes
from .function import Function, ImageSettings


@dataclass(frozen=True)
class Source:
    """A backbone whose library has a configuration: open_clip's or Hugging Face's.

    Attributes:
        name: its name.
        library: "open_clip" or "Hugging Face".
        files: the files that determine it.
        function: what its weights do not determine.
        images: its images.
        sizes: of its towers.
        vocabulary: number of its tokens.
        tokenizer: its tokenizer; None: that of the `clip` package.
        special_tokens: ids of the first and the last token of a text.
        read: reads its weights, in OpenAI's layout.
    """

    name: str
    library: str
    files: tuple[Path, ...]
    function: Function
    images: ImageSettings
    sizes: ClipSizes
    vocabulary: int
    special_tokens: tuple[int, int]
    read: Callable[[], dict[str, Tensor]]
    tokenizer: Any = field(default=None, compare=False)

    def described(self) -> dict[str, Any]:
        """Return everything but the weights, as JSON stores it."""
        return describe_function(self.function, self.sizes.context, self.vocabulary, self.special_tokens) | {
            "images": {**asdict(self.images), "mean": list(self.images.mean), "std": list(self.images.std)}
        }


def describe_function(
    function: Function, context: int, vocabulary: int, special_tokens: tuple[int, int]
) -> dict[str, Any]:
    """Return what the weights of a backbone do not determine, as prompt files record it."""
    return {
        "text": asdict(function.text),
        "vision": asdict(function.vision),
        "context": context,
        "vocabulary": vocabulary,
        "special_tokens": list(special_tokens),
    }


def source_of(name: str) -> Source | None:
    """Return the source of a backbone of open_clip or Hugging Face.

    None for one in OpenAI's layout.

    Raises:
        BackboneError: its configuration is unknown, damaged, or one that the engine does not compute.
    """
    from . import hugging_face, open_clip  # they read this module's classes

    name = str(name)
    found = name.removeprefix(f"{open_clip.PREFIX}:")
    changed = _changed(Path(found)) if found and Path(found).is_dir() else None
    if found != name:
        return _cached(open_clip.source, name, changed)
    return None if changed is None else _cached(hugging_face.source, name, changed)


def _changed(folder: Path) -> tuple:
    """Return what changes when a file of a folder does."""
    return tuple(sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir() if path.is_file()))


@functools.lru_cache(maxsize=8)
def _cached(read: Callable[[str], Source], name: str, _changed: tuple | None) -> Source:
    return read(name)


def check_settings(source: str, found: Mapping[str, Any], expected: Mapping[str, Any], free: frozenset[str]) -> str:
    """Return the first setting that the engine does not compute, and what is expected.

    Its value is part of the text; "" if there is none.

    Args:
        source: prefix of the settings' names.
        found: the settings.
        expected: {setting: accepted values} of settings that must have one of them; all others must be unset.
        free: settings that the engine computes, or that have no effect in evaluation.
    """
    for key, value in found.items():
        if key in free:
            continue
        accepted = expected.get(key, ())
        if value not in accepted and value not in (None, False, 0, 0.0, "", {}, []):
            wanted = " or ".join(map(repr, accepted)) or "it not to be set"
            return f"{source}{key} is {value!r}; expected {wanted}"
    return ""
