"""Small helpers for modules."""

import torch.nn as nn

from .tools import tolist_if_not

__all__ = ["count_num_param", "init_network_weights", "open_all_layers", "open_specified_layers"]


def open_all_layers(model):
    """Make every parameter trainable and set training mode."""
    model.train()
    for parameter in model.parameters():
        parameter.requires_grad = True


def open_specified_layers(model, open_layers):
    """Make the children named in `open_layers` (a name or a list) trainable; freeze the others, in eval mode.

    Raises:
        ValueError: `model` has no child of such a name.
    """
    if isinstance(model, nn.DataParallel):
        model = model.module
    open_layers = tolist_if_not(open_layers) if isinstance(open_layers, str) else list(open_layers)
    children = dict(model.named_children())
    unknown = [name for name in open_layers if not hasattr(model, name)]
    if unknown:
        raise ValueError(f"no layer {unknown} in {type(model).__name__}; its layers are {list(children)}")
    for name, module in children.items():
        opened = name in open_layers
        module.train(opened)
        for parameter in module.parameters():
            parameter.requires_grad = opened


def count_num_param(model=None, params=None):
    """The number of parameters of `model`, or of `params` (tensors, or dictionaries with one as "params").

    Raises:
        ValueError: neither is given.
    """
    if model is not None:
        params = model.parameters()
    if params is None:
        raise ValueError("count_num_param needs a model or parameters")
    return sum((p["params"] if isinstance(p, dict) else p).numel() for p in params)


_WEIGHTS = {
    "normal": lambda weight, gain: nn.init.normal_(weight, 0.0, gain),
    "xavier": lambda weight, gain: nn.init.xavier_normal_(weight, gain=gain),
    "kaiming": lambda weight, gain: nn.init.kaiming_normal_(weight, a=0, mode="fan_in"),
    "orthogonal": lambda weight, gain: nn.init.orthogonal_(weight, gain=gain),
}


def init_network_weights(model, init_type="normal", gain=0.02):
    """Initialise convolutions and linear layers by `init_type`, normalisations to weight 1, all biases to 0.

    Args:
        init_type: normal, xavier, kaiming or orthogonal.

    Raises:
        ValueError: another `init_type`.
    """
    if init_type not in _WEIGHTS:
        raise ValueError(f'init_type "{init_type}" is unknown; known: {", ".join(_WEIGHTS)}')

    def initialise(module):
        kind = type(module).__name__
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if weight is not None and ("Conv" in kind or "Linear" in kind):
            _WEIGHTS[init_type](weight.data, gain)
        elif weight is not None and ("BatchNorm" in kind or "InstanceNorm" in kind):
            nn.init.constant_(weight.data, 1.0)
        else:
            return
        if bias is not None:
            nn.init.constant_(bias.data, 0.0)

    model.apply(initialise)
