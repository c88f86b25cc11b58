"""Configuration errors, and the near matches that their messages offer."""

from ..names import nearest as nearest


class ConfigError(ValueError):
    """A configuration that cannot be meant."""


def check_choice(key: str, value, allowed) -> None:
    """Raise `ConfigError` unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ConfigError(f"{key} is {value!r}, expected one of {', '.join(map(repr, allowed))}")
