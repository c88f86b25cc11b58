"""`--vary KEY=V1,V2,...`: the values of an ablation, their product, and the folders of its runs."""

import hashlib
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from ..config import ConfigError

Variation = tuple[tuple[str, str], ...]  # (key, value) pairs; a key may start with "boost:" or "adapt:"

FOLDER = "vary"  # of the runs with varied keys, in the output folder
_LONGEST = 150  # characters of a folder's name
_PHASES = ("boost", "adapt")


def product(given: Sequence[str]) -> list[Variation]:
    """Return all combinations of varied values.

    One without any key if nothing is varied.

    Args:
        given: "KEY=V1,V2,..." each; commas inside brackets and quotes belong to a value. "boost:KEY" and "adapt:KEY" are
            for one phase.

    Raises:
        ConfigError: an item has another form, a key is given twice, or a value is given twice.
    """
    values: dict[str, list[str]] = {}
    for item in given:
        name, separator, text = item.partition("=")
        key = phase_of(name)[1]
        if not separator or not text or not re.fullmatch(r"[A-Z][A-Z0-9_.]*", key):
            raise ConfigError(
                f"--vary: {item!r}; expected KEY=VALUE,VALUE,... such as TRAINER.CASPL.TEMPERATURE=0.5,1,2"
            )
        if name in values:
            raise ConfigError(f"--vary: {name} is given twice; expected all of its values in one list")
        values[name] = split_values(text)
        if len(set(values[name])) < len(values[name]):
            raise ConfigError(f"--vary: {item!r}; expected each value once")
    return [tuple(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def split_values(text: str) -> list[str]:
    """Split values at commas outside brackets and quotes."""
    found, depth, quote = [""], 0, ""
    for sign in text:
        if quote or sign in "'\"":
            quote = "" if sign == quote else quote or sign
        else:
            depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and not depth and not quote:
            found.append("")
        else:
            found[-1] += sign
    return [value.strip() for value in found]


def phase_of(name: str) -> tuple[str, str]:
    """Return (phase, key) of a varied key: "boost", "adapt", or "" for both phases."""
    phase, separator, key = name.partition(":")
    return (phase, key) if separator and phase in _PHASES else ("", name)


def label(varied: Variation) -> str:
    """Return a variation in words, for tables and logs."""
    return ", ".join(f"{name}={value}" for name, value in varied)


def folder(varied: Variation) -> Path:
    """Return the folder of a variation, relative to the output folder.

    The output folder itself without varied keys.
    """
    if not varied:
        return Path()
    text = ",".join(f"{name}={value}" for name, value in varied)
    safe = re.sub(r"[^\w.,=+-]+", "_", text)
    if safe != text.replace(":", "_") or len(safe) > _LONGEST:  # other values may give the same name
        safe = f"{safe[:_LONGEST]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return Path(FOLDER) / safe
