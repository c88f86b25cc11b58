"""What a CLIP's weights do not determine: activation, width of the attention heads, normalisation, and its images."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from .errors import BackboneError
from .files import BUILT_IN, is_published

logger = logging.getLogger(__name__)

HEAD_WIDTH = 64  # channels of an attention head in all of OpenAI's models
EPSILON = 1e-5
_RECORD = '{"state_dict": ..., "activation": "quick_gelu", "head_width": 64}'

# The activations that the engine computes, by the names that OpenAI, open_clip and Hugging Face give them.
_ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "quickgelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


@dataclass(frozen=True)
class TowerFunction:
    """What a tower's weights do not determine.

    Attributes:
        activation: of its MLPs, "quick_gelu", "gelu" or "gelu_tanh" (GELU's approximation).
        head_width: channels of an attention head.
        layer_norm_eps: added to the variance by its LayerNorms.
    """

    activation: str = "quick_gelu"
    head_width: int = HEAD_WIDTH
    layer_norm_eps: float = EPSILON

    def gelu(self) -> nn.Module | None:
        """Return the activation's module; None for QuickGELU, which `clip` builds."""
        if self.activation == "quick_gelu":
            return None
        return nn.GELU(approximate="tanh" if self.activation == "gelu_tanh" else "none")


@dataclass(frozen=True)
class ImageSettings:
    """The images that a CLIP was trained on, scaled to 0..1 before they are normalised.

    Attributes:
        size: side of the square images in pixels.
        mean, std: of red, green and blue.
        interpolation: "bicubic" or "bilinear".
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"


@dataclass(frozen=True)
class Function:
    """What the weights of a CLIP do not determine.

    Attributes:
        text, vision: of each tower.
        image_size: side of its images in pixels; 0: a multiple of the patches.
    """

    text: TowerFunction = TowerFunction()
    vision: TowerFunction = TowerFunction()
    image_size: int = 0


def check_activation(source: str, name: Any) -> str:
    """Return this package's name of an activation.

    Args:
        source: where it is set, for the message.
        name: its name.

    Raises:
        BackboneError: the engine does not compute it.
    """
    known = _ACTIVATIONS.get(str(name).lower())
    if known is None:
        raise BackboneError(
            f"{source}: activation {name!r}; expected one of {', '.join(sorted(_ACTIVATIONS))}. Use another backbone"
        )
    return known


def recorded_function(name: str, recorded: Mapping[str, Any]) -> Function:
    """Return the function of a file in OpenAI's layout.

    A file records its function as entries next to its state dict, or as a safetensors file's metadata: `activation`
    ("quick_gelu", "gelu"), `head_width` (channels), `layer_norm_eps`. A file without them is computed as OpenAI's models
    are, which is logged.

    Args:
        name: the backbone's name.
        recorded: what its file records next to the weights.

    Raises:
        BackboneError: the file records a function that the engine does not compute.
    """
    source, code = f"backbone {name!r}", str(recorded.get("code", ""))
    found = recorded.get("activation", "quick_gelu")
    if "torch.gelu(" in code:
        found = "gelu_tanh" if "tanh" in code else "gelu"
    activation = check_activation(source, found)
    epsilon = number(source, "layer_norm_eps", recorded.get("layer_norm_eps", EPSILON))
    if epsilon <= 0:
        raise BackboneError(f"{source}: layer_norm_eps {epsilon}; expected a positive number")
    width = number(source, "head_width", recorded.get("head_width", HEAD_WIDTH))
    if width < 1 or width != int(width):
        raise BackboneError(f"{source}: head_width {width}; expected a whole number of channels, 1 or more")
    if name not in BUILT_IN and not is_published(name) and not {"activation", "head_width"} <= recorded.keys():
        logger.warning(
            "Backbone %s does not record its activation and head width: computing %s and heads of %d channels; "
            "save it as %s to set them",
            name,
            {"quick_gelu": "QuickGELU"}.get(activation, activation),
            int(width),
            _RECORD,
        )
    tower = TowerFunction(activation, int(width), epsilon)
    return Function(tower, tower)


def number(source: str, key: str, value: Any) -> float:
    """Return a recorded number.

    Raises:
        BackboneError: it is not a finite number.
    """
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if isinstance(value, bool) or not math.isfinite(found):
        raise BackboneError(f"{source}: {key} {value!r}; expected a number")
    return found
