"""Names for classes, so that a configuration can ask for one (the convention of fvcore and Dassl)."""

from .tools import describe_choices

__all__ = ["Registry"]


class Registry:
    """A table from names to objects.

    Register with `@REGISTRY.register()` above a class or function, or `REGISTRY.register(obj)`; the name is
    `obj.__name__`. Look up with `REGISTRY.get(name)`.
    """

    def __init__(self, name):
        self._name = name
        self._obj_map = {}

    def register(self, obj=None, force=False):
        """Add `obj`, or return a decorator that does.

        Raises:
            KeyError: the name is taken and `force` is false.
        """
        if obj is None:
            return lambda decorated: self._add(decorated, force)
        self._add(obj, force)

    def _add(self, obj, force):
        name = obj.__name__
        if name in self._obj_map and not force:
            raise KeyError(
                f'"{name}" of {obj.__module__} cannot join the {self._name} registry: '
                f"{self._obj_map[name].__module__} has already registered that name"
            )
        self._obj_map[name] = obj
        return obj

    def get(self, name):
        """The object called `name`.

        Raises:
            KeyError: there is none; the message lists what exists and the nearest name.
        """
        if name not in self._obj_map:
            raise KeyError(f"{self._name} registry: {describe_choices(name, self.registered_names())}")
        return self._obj_map[name]

    def registered_names(self):
        """All names, in the order of registration."""
        return list(self._obj_map)
