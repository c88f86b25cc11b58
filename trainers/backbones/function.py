"""What a CLIP's weights do not determine: the activation, the width of the attention heads and the normalisation."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from .errors import BackboneError
from .files import BUILT_IN, is_published

logger = logging.getLogger(__name__)

HEAD_WIDTH = 64  # channels of an attention head in all of OpenAI's models
ACTIVATION, EPSILON = "quick_gelu", 1e-5
_RECORD = '{"state_dict": ..., "activation": "quick_gelu", "head_width": 64}'


def head_width_of(name: str, recorded: Mapping[str, Any]) -> int:
    """Return the width of a backbone's attention heads, after checking that the engine computes its function.

    A file records its function as entries next to its state dict, or as a safetensors file's metadata: `activation`
    ("quick_gelu"), `head_width` (channels), `layer_norm_eps`. A file without them is computed as OpenAI's models are,
    which is logged.

    Args:
        name: the backbone's name.
        recorded: what its file records next to the weights.

    Raises:
        BackboneError: the file records a function that the engine does not compute.
    """
    activation = str(recorded.get("activation", ACTIVATION)).lower().replace("quickgelu", ACTIVATION)
    if "torch.gelu(" in str(recorded.get("code", "")):
        activation = "gelu"
    if activation != ACTIVATION:
        raise BackboneError(
            f"backbone {name!r}: activation {activation!r}; expected 'quick_gelu', the engine's only one"
        )
    epsilon = _number(name, "layer_norm_eps", recorded.get("layer_norm_eps", EPSILON))
    if not math.isclose(epsilon, EPSILON, rel_tol=1e-6):
        raise BackboneError(f"backbone {name!r}: layer_norm_eps {epsilon}; expected {EPSILON}, the engine's only one")
    width = _number(name, "head_width", recorded.get("head_width", HEAD_WIDTH))
    if width < 1 or width != int(width):
        raise BackboneError(f"backbone {name!r}: head_width {width}; expected a whole number of channels, 1 or more")
    if name not in BUILT_IN and not is_published(name) and not {"activation", "head_width"} <= recorded.keys():
        logger.warning(
            "Backbone %s does not record its activation and head width: computing QuickGELU and heads of %d channels; "
            "save it as %s to set them",
            name,
            int(width),
            _RECORD,
        )
    return int(width)


def _number(name: str, key: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise BackboneError(f"backbone {name!r}: {key} {value!r}; expected a number")
    return number
