"""One configuration key: its type, range, default and meaning."""

import ast
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from yacs.config import CfgNode

LONGEST_NAME = 255  # bytes of a file's or folder's name
_LONGEST = 4096  # characters of a value on the command line
_TYPES = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}

# Roles of trainers. A host reads EVERY, LEARNING and ADAPTING keys; a cascaded one CASCADE keys as well.
EVERY, LEARNING, ADAPTING, BOOSTING = "every", "learning", "adapting", "boosting"
CASCADE, ZERO_SHOT = "cascade", "zero-shot"


@dataclass(frozen=True)
class OnlyWith:
    """A condition: a key is read only with certain values of another key.

    A list must contain one of these values.
    """

    key: str
    values: tuple

    def __call__(self, cfg: CfgNode) -> str:
        """Return why the key is not read, or an empty string."""
        value = value_of(cfg, self.key)
        found = value if isinstance(value, list | tuple) else [value]
        return "" if set(self.values) & set(found) else f"{self.key} is {shown(value)}"

    def __str__(self) -> str:
        return f"{self.key} {' or '.join(map(str, self.values))}"


@dataclass(frozen=True)
class Field:
    """A configuration key.

    Args:
        name: the whole key, dots between its parts; in a host's `fields`, its last part.
        default: the value that it has if it is not set.
        meaning: one line for `--help` and the manual.
        kind: the type of the value, or of each item of a list; None: the default's.
        least, most: inclusive bounds of a number, or of each item.
        above, below: exclusive bounds.
        choices: the accepted values (of each item), or a function that returns them, called when they are needed.
        length: how many items a list has; None: any number.
        longest: most characters of a text, or most items of a list.
        required: whether an empty text or list is rejected.
        path: whether a text is taken literally, as a folder may be called 2024.
        place: whether it only says where and how a run is carried out; runs that differ in it are the same run.
        read_by: the roles of the trainers that read it (see `keys.roles`).
        unread: why it is not read under a configuration; None: it always is. `OnlyWith` is one.
        limits: attributes of the backbone's sizes that bound it; the smallest counts.
    """

    name: str
    default: Any
    meaning: str
    kind: type | None = None
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple | Callable[[], Iterable] | None = None
    length: int | None = None
    longest: int = 300
    required: bool = False
    path: bool = False
    place: bool = False
    read_by: tuple[str, ...] = ()
    unread: Callable[[CfgNode], str] | None = None
    limits: tuple[str, ...] = ()

    @property
    def many(self) -> bool:
        """Whether the value is a list."""
        return isinstance(self.default, list | tuple)

    @property
    def type(self) -> type:
        """The type of the value, or of each item of a list."""
        return self.kind or (str if self.many and not self.default else type(self._first()))

    def _first(self) -> Any:
        return self.default[0] if self.many else self.default

    def below_node(self, node: str) -> "Field":
        """Return the field of a host's node with its whole key."""
        return replace(self, name=f"TRAINER.{node}.{self.name}")

    def initial(self) -> Any:
        """Return the default in the key's type, not shared with other configurations."""
        items = [self.type(item) for item in (self.default if self.many else [self.default])]
        return type(self.default)(items) if self.many else items[0]

    def allowed(self) -> tuple | None:
        """Return the choices, None if there are none to choose from."""
        return tuple(self.choices()) if callable(self.choices) else self.choices

    def expected(self) -> str:
        """Describe the accepted values."""
        if self.choices is not None:
            one = self._choices()
        else:
            one = " ".join(filter(None, [_TYPES[self.type], self._range()]))
        if not self.many:
            return f"{one}, not empty" if self.required and self.type is str and self.choices is None else one
        if self.path:
            return "a folder, or a list of folders"
        count = "" if self.length is None else f" of {self.length}"
        return f"a list{count}, each {one}"

    def kind_name(self) -> str:
        """Return the name of the value's type, such as `int` or `list of 2 float`."""
        count = "" if self.length is None else f" {self.length}"
        return f"list of{count} {self.type.__name__}" if self.many else self.type.__name__

    def range(self) -> str:
        """Describe the accepted values without their type.

        An empty string if all are accepted.
        """
        return self._choices() if self.choices is not None else self._range()

    def _choices(self) -> str:
        return f"one of {', '.join(map(repr, self.allowed() or ()))}"

    def _range(self) -> str:
        if self.path:
            return f"with names of at most {LONGEST_NAME} bytes"
        low = f"{self.least} or more" if self.least is not None else ""
        low = f"above {self.above}" if self.above is not None else low
        high = f"at most {self.most}" if self.most is not None else ""
        high = f"below {self.below}" if self.below is not None else high
        return " and ".join(filter(None, [low, high]))

    def convert(self, value: Any) -> Any:
        """Return a value from a file or the command line in the key's type.

        Raises:
            ValueError: it is of another type; the message says what is expected.
        """
        value = self._literal(value)
        if not self.many:
            return self._item(value)
        if self.path and isinstance(value, str):
            value = [value]  # one folder
        if not isinstance(value, list | tuple):
            raise ValueError(self.expected())
        return type(self.default)(self._item(item) for item in value)

    def _literal(self, value: Any) -> Any:
        """Return what a text from the command line denotes: numbers, lists and quoted texts as in Python."""
        if not isinstance(value, str):
            return value
        if len(value) > _LONGEST:
            raise ValueError(f"at most {_LONGEST} characters")
        try:
            literal = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value
        literally = self.path and literal is not None and not (self.many and isinstance(literal, list | tuple))
        return value if literally else literal

    def _item(self, value: Any) -> Any:
        if self.type is float and isinstance(value, int | str) and not isinstance(value, bool):
            try:
                return float(value)  # YAML reads 1e-5 as text
            except (ValueError, OverflowError):
                raise ValueError(self.expected()) from None
        if type(value) is not self.type:
            raise ValueError(self.expected())
        return value

    def problem(self, value: Any) -> str:
        """Return what is expected if a value of the key's type is out of range.

        An empty string otherwise.
        """
        items = value if self.many else [value]
        if self.many and (len(items) > self.longest or (self.length is not None and len(items) != self.length)):
            return self.expected()
        if self.required and not value:
            return self.expected()
        return "" if all(map(self._accepts, items)) else self.expected()

    def _accepts(self, value: Any) -> bool:
        if type(value) is not self.type and not (self.type is float and type(value) is int):
            return False
        if self.choices is not None:
            return value in (self.allowed() or ())
        if isinstance(value, str):
            return len(value) <= self.longest and value.isprintable() and not (self.path and _has_long_name(value))
        number: Any = value
        return math.isfinite(number) and self._within(number)

    def _within(self, value: float) -> bool:
        return not (
            (self.least is not None and value < self.least)
            or (self.most is not None and value > self.most)
            or (self.above is not None and value <= self.above)
            or (self.below is not None and value >= self.below)
        )


def _has_long_name(path: str) -> bool:
    """Return whether a file system would not accept a name in a path."""
    return any(len(name.encode()) > LONGEST_NAME for name in path.replace("\\", "/").split("/"))


def value_of(cfg: CfgNode, key: str) -> Any:
    """Return the value of a key with dots between its parts."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def put(cfg: CfgNode, key: str, value: Any) -> None:
    """Set a key with dots between its parts, and create the nodes that are missing."""
    *nodes, last = key.split(".")
    for name in nodes:
        cfg = cfg.setdefault(name, CfgNode())
    cfg[last] = value


def shown(value: Any) -> str:
    """Return a value for a message, cut off if it is long."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**20 else "a very large number"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
