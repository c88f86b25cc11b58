"""The keys as text, for `--help` and the manual."""

from collections.abc import Iterable

from .fields import Field
from .keys import FIELDS


def help_text() -> str:
    """Return a line for each key with its meaning and default, without looking up choices that other modules define."""
    shared = [field for field in FIELDS.values() if field.read_by]
    width = max(len(field.name) for field in shared)
    lines = [f"  {field.name:<{width}}  {field.meaning} (default: {field.initial()!r})" for field in shared]
    return "\n".join(
        ["configuration keys:", *lines, f"  {'TRAINER.<HOST>.*':<{width}}  keys of a host: trainers/hosts/<host>.py"]
    )


def table(fields: Iterable[Field]) -> str:
    """Return a Markdown table of keys with their default, accepted values and meaning."""
    rows = [
        f"| `{f.name}` | `{f.initial()!r}` | {_cell(f.expected())} | {_cell(f.meaning)}{_condition(f)} |"
        for f in fields
    ]
    return "\n".join(["| key | default | accepted | meaning |", "| --- | --- | --- | --- |", *rows]) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


def _condition(field: Field) -> str:
    named = field.unread is not None and type(field.unread).__name__ == "OnlyWith"
    return f"; only with {field.unread}" if named else ""
