"""Configuration errors, and the near matches that their messages offer."""

from collections.abc import Collection

from ..names import nearest as nearest


class ConfigError(ValueError):
    """Invalid configuration."""


def check_choice(key: str, value: object, allowed: Collection) -> None:
    """Raise `ConfigError` unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ConfigError(f"{key} is {value!r}, expected one of {', '.join(map(repr, allowed))}")
