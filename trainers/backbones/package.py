"""The importable `clip` package: OpenAI's own or one of the family's forks."""

import functools
import importlib
import warnings
from typing import Any

from .errors import BackboneError


def clip_package(module: str) -> Any:
    """Import a module of `clip`, late: a toolbox may put its own fork on the path first.

    Raises:
        BackboneError: the package is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # openai-clip imports it
            return importlib.import_module(f"clip.{module}")
    except ModuleNotFoundError as error:
        raise BackboneError(
            f"no module named {error.name!r}: CLIP's own package is needed; pip install openai-clip 'setuptools<81', or "
            "run in a checkout that has a folder clip/"
        ) from error


@functools.cache
def tokenizer() -> Any:
    """Return CLIP's byte-pair tokenizer.

    Its `encode(text)` returns token ids without SOS and EOT.
    """
    return clip_package("simple_tokenizer").SimpleTokenizer()
