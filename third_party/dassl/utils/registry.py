"""Names for classes, so that a configuration can choose one."""

from typing import Any

from .tools import describe_choices


class Registry:
    """A table from names to objects.

    Register with `@REGISTRY.register()` above a class or function, or `REGISTRY.register(obj)`; the name is
    `obj.__name__`. Look up with `REGISTRY.get(name)`.

    Args:
        name: the registry's name in error messages.
    """

    def __init__(self, name: str):
        self._name = name
        self._obj_map: dict[str, Any] = {}

    def register(self, obj: Any = None, force: bool = False) -> Any:
        """Add `obj`, or return a decorator that adds what it decorates.

        Raises:
            KeyError: the name is taken and `force` is false.
        """
        if obj is None:
            return lambda decorated: self._add(decorated, force)
        self._add(obj, force)

    def _add(self, obj: Any, force: bool) -> Any:
        name = obj.__name__
        if name in self._obj_map and not force:
            raise KeyError(
                f'"{name}" of {obj.__module__} cannot join the {self._name} registry: '
                f"{self._obj_map[name].__module__} has already registered that name"
            )
        self._obj_map[name] = obj
        return obj

    def get(self, name: str) -> Any:
        """Return the object of a name.

        Raises:
            KeyError: the name is not registered; the message lists known names and the most similar one.
        """
        if name not in self._obj_map:
            raise KeyError(f"{self._name} registry: {describe_choices(name, self.registered_names())}")
        return self._obj_map[name]

    def registered_names(self) -> list[str]:
        """Return all names in the order of registration."""
        return list(self._obj_map)
