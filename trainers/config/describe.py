"""The keys as text, for `--help` and the manual."""

from collections.abc import Iterable

from .fields import Field, OnlyWith
from .keys import BOOSTING, CASCADE, EVERY, FIELDS, LEARNING, ZERO_SHOT


def help_text() -> str:
    """Return a line for each key with its meaning and default.

    Choices that other modules define are not looked up.
    """
    shared = [field for field in FIELDS.values() if field.read_by]
    width = max(len(field.name) for field in shared)
    lines = [f"  {field.name:<{width}}  {field.meaning} (default: {field.initial()!r})" for field in shared]
    return "\n".join(
        ["configuration keys:", *lines, f"  {'TRAINER.<HOST>.*':<{width}}  keys of a host: trainers/hosts/<host>.py"]
    )


def reference() -> str:
    """Return the manual's page of all declared keys in Markdown.

    It has a table for each node of the configuration.
    """
    nodes: dict[str, list[Field]] = {}
    for field in FIELDS.values():
        nodes.setdefault(_node(field), []).append(field)
    return "\n".join(f"## {node}\n\n{table(fields)}" for node, fields in nodes.items())


def table(fields: Iterable[Field]) -> str:
    """Return a Markdown table of keys with their type, range, default, meaning and phase."""
    rows = [
        f"| `{f.name}` | {f.kind_name()} | {_cell(f.range())} | `{f.initial()!r}` | {_cell(f.meaning)}{_condition(f)} "
        f"| {_phase(f)} |"
        for f in fields
    ]
    head = ["| key | type | range | default | meaning | phase |", "| --- | --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *rows]) + "\n"


def _node(field: Field) -> str:
    """Return the heading that a key belongs under: its node, or "Run"."""
    parts = field.name.split(".")
    if parts[0] == "TRAINER" and len(parts) > 2:
        return ".".join(parts[:2])
    return parts[0] if len(parts) > 1 and parts[0] != "TRAINER" else "Run"


def _phase(field: Field) -> str:
    """Return which runs read a key; a host's own keys are read in phase 2."""
    roles = set(field.read_by)
    if EVERY in roles:
        return "1, 2, zero-shot"
    found = ["1"] if roles & {LEARNING, BOOSTING} else []
    found += ["2"] if roles & {LEARNING, CASCADE} or not roles else []
    found += ["zero-shot"] if ZERO_SHOT in roles else []
    return ", ".join(found)


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ").replace("<", "&lt;")


def _condition(field: Field) -> str:
    named = isinstance(field.unread, OnlyWith)
    return f"; only with {field.unread}" if named else ""
