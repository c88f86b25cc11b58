"""The tokenizer of a Hugging Face CLIP folder: CLIP's byte-pair algorithm with the folder's own vocabulary."""

import copy
import json
from pathlib import Path
from typing import Any

from .errors import BackboneError
from .package import tokenizer

_START, _END = "<|startoftext|>", "<|endoftext|>"
_CLASSES = ("CLIPTokenizer", "CLIPTokenizerFast")


def read_tokenizer(name: str, folder: Path) -> tuple[Any, tuple[int, int], list[Path]]:
    """Read a folder's tokenizer.

    Args:
        name: the backbone's name, for messages.
        folder: its folder.

    Returns:
        The tokenizer, the ids of the first and the last token of a text, and the files that were read.

    Raises:
        BackboneError: a file is missing or damaged, or the tokenizer is not CLIP's byte-pair encoder.
    """
    settings_file = folder / "tokenizer_config.json"
    files = [settings_file] if settings_file.is_file() else []
    try:
        settings = json.loads(settings_file.read_text(encoding="utf-8")) if files else {}
        vocabulary, merges, read = _vocabulary(folder)
        start, end = (vocabulary[_text(settings.get(key), other)] for key, other in _SPECIAL)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackboneError(
            f"backbone {name!r}: its tokenizer cannot be read ({error!r}); expected tokenizer.json, or vocab.json and "
            "merges.txt, of transformers' CLIPTokenizer"
        ) from error
    kind, lower = settings.get("tokenizer_class", _CLASSES[0]), settings.get("do_lower_case", True)
    if kind not in _CLASSES or not lower:
        raise BackboneError(
            f"backbone {name!r}: tokenizer_class {kind!r} with do_lower_case {lower}; expected CLIPTokenizer, lower case"
        )
    made = _with_vocabulary(vocabulary, merges)
    missing = [symbol for symbol in made.byte_encoder.values() if not {symbol, f"{symbol}</w>"} <= vocabulary.keys()]
    if missing:
        raise BackboneError(f"backbone {name!r}: {len(missing)} bytes are not in the vocabulary; expected all 256")
    return made, (start, end), [*files, *read]


_SPECIAL = (("bos_token", _START), ("eos_token", _END))


def _text(token: Any, other: str) -> str:
    """Return a special token, which files give as a text or as a mapping."""
    return (token["content"] if isinstance(token, dict) else token) or other


def _vocabulary(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]], list[Path]]:
    whole = folder / "tokenizer.json"
    if whole.is_file():
        content = json.loads(whole.read_text(encoding="utf-8"))
        model = content["model"]
        if model["type"] != "BPE" or model.get("end_of_word_suffix") != "</w>":
            raise ValueError(f"model {model['type']} with end_of_word_suffix {model.get('end_of_word_suffix')!r}")
        added = {token["content"]: token["id"] for token in content.get("added_tokens", [])}
        return {**model["vocab"], **added}, [_pair(merge) for merge in model["merges"]], [whole]
    files = [folder / "vocab.json", folder / "merges.txt"]
    lines = files[1].read_text(encoding="utf-8").splitlines()
    merges = [_pair(line) for line in lines if line.strip() and not line.startswith("#version")]
    return json.loads(files[0].read_text(encoding="utf-8")), merges, files


def _pair(merge: Any) -> tuple[str, str]:
    first, second = merge.split() if isinstance(merge, str) else merge
    return first, second


def _with_vocabulary(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Any:
    """Return the tokenizer of the `clip` package with another vocabulary."""
    made = copy.copy(tokenizer())
    made.encoder, made.decoder = vocabulary, {index: token for token, index in vocabulary.items()}
    made.bpe_ranks = {pair: rank for rank, pair in enumerate(merges)}
    made.cache = {token: token for token in (_START, _END)}
    return made
