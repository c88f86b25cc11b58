"""Texts around or about a class name: the CoOp family's templates, a template of the user's, or a JSON file of texts."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from ..config import ConfigError

logger = logging.getLogger(__name__)

DEFAULT = "a photo of a {}."

_BY_DATASET = {
    "OxfordPets": "a photo of a {}, a type of pet.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "FGVCAircraft": "a photo of a {}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "Food101": "a photo of {}, a type of food.",
    "UCF101": "a photo of a person doing {}.",
}


def template_of(dataset: str) -> str:
    """Return the template of a dataset's registry name (github.com/KaiyangZhou/CoOp, zero-shot CLIP)."""
    return _BY_DATASET.get(dataset, DEFAULT)


def template_for(cfg: CfgNode) -> str:
    """Return `DATASET.TEMPLATE`, or the family's template of `DATASET.NAME` if it is empty.

    Raises:
        ConfigError: it is neither a text with {} nor a file that ends in .json.
    """
    template = getattr(cfg.DATASET, "TEMPLATE", "") or template_of(cfg.DATASET.NAME)
    check_template("DATASET.TEMPLATE", template)
    return template


def check_template(key: str, template: str) -> None:
    """Check a template.

    Args:
        key: the configuration key that it comes from.
        template: a text or the path of a JSON file.

    Raises:
        ConfigError: it is neither a text with {} nor an existing file that ends in .json.
    """
    if is_file(template):
        if not Path(template).is_file():
            raise ConfigError(f"{key}: {template} is not a file; expected a JSON file of templates or descriptions")
    elif "{}" not in template:
        raise ConfigError(
            f"{key}: {template!r}; expected a {{}} for the class name, or a file that ends in .json. Write for example "
            f"{DEFAULT!r}"
        )


def is_file(template: str) -> bool:
    """Return whether a template is the path of a JSON file of texts."""
    return template.endswith(".json")


def expand(template: str, names: Sequence[str]) -> tuple[Sequence[str], str, list[int] | None]:
    """Return the texts of a template as names and one template around them.

    Args:
        template: a text with {} for the class name, or the path of a JSON file: a list of such texts, or
            {class name: [descriptions]}, the layout of CuPL (github.com/sarahpratt/CuPL).
        names: the class names.

    Returns:
        (names, template, None) for a single text; otherwise all texts of all classes in turn, the template "{}", and
        the number of texts per class.

    Raises:
        ConfigError: the file is not such a JSON file, or has no text for a class.
    """
    if not is_file(template):
        return names, template, None
    groups = read_texts(Path(template), names)
    return [text for group in groups for text in group], "{}", [len(group) for group in groups]


def read_texts(path: Path, names: Sequence[str]) -> list[list[str]]:
    """Return the texts of each class from a JSON file, see `expand`.

    Raises:
        ConfigError: the file has another layout, or no text for a class.
    """
    content = _read_json(path)
    if isinstance(content, list):
        if not content or not all(isinstance(text, str) and "{}" in text for text in content):
            raise ConfigError(f"{path}: expected a list of texts with a {{}} for the class name")
        return [[text.replace("{}", name) for text in content] for name in names]
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a list of templates or an object {{class name: [descriptions]}}")
    by_name = {_plain(key): [value] if isinstance(value, str) else value for key, value in content.items()}
    missing = [name for name in names if _plain(name) not in by_name]
    if missing:
        raise ConfigError(
            f"{path}: no texts for {len(missing)} classes, such as {missing[0]!r}; expected an entry per class name"
        )
    groups = [by_name[_plain(name)] for name in names]
    for name, group in zip(names, groups, strict=True):
        if (
            not isinstance(group, list)
            or not group
            or not all(isinstance(text, str) and text.strip() for text in group)
        ):
            raise ConfigError(f"{path}: the entry of {name!r}; expected a list of one or more texts")
    unused = len(by_name) - len({_plain(name) for name in names})
    if unused:
        logger.info("%s: %d entries belong to none of the classes", path, unused)
    return groups


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error}); expected a JSON file of texts") from error


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def described(template: str) -> str:
    """Return a template as it is recorded in prompt files.

    A JSON file is recorded by its name and the SHA-256 of its content.
    """
    if not is_file(template):
        return template
    return f"{Path(template).name} (sha256 {hashlib.sha256(Path(template).read_bytes()).hexdigest()[:16]})"


def ensemble() -> list[str]:
    """Return the 60 templates of PromptSRC's frozen text features (github.com/muzairkhattak/PromptSRC)."""
    return (Path(__file__).resolve().parent / "templates.txt").read_text().splitlines()
