"""Notice cheaply that a model has changed, so that what was computed from it is outdated."""

from torch import nn


class Watched:
    """The state of a module's parameters.

    `unchanged` compares it without traversing the module.

    Args:
        module: the module.
    """

    def __init__(self, module: nn.Module):
        modules = list(module.modules())
        self._children = [(each._modules, dict(each._modules)) for each in modules if each._modules]
        self._parameters = [
            (each._parameters, name, parameter, parameter.data_ptr(), parameter._version)
            for each in modules
            for name, parameter in each._parameters.items()
            if parameter is not None
        ]

    def unchanged(self) -> bool:
        """Return whether no parameter was written to, moved or replaced.

        No submodule may be replaced either.
        """
        return all(now == before for now, before in self._children) and all(
            owner.get(name) is parameter and parameter._version == version and parameter.data_ptr() == place
            for owner, name, parameter, place, version in self._parameters
        )
