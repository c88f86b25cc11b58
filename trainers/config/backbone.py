"""A configuration checked against its backbone: image size, depths and numbers of prompt tokens."""

from collections.abc import Mapping

from yacs.config import CfgNode

from ..engine import ClipSizes
from .errors import ConfigError
from .merge import value_of

MAX_TOKENS = 1000  # of a prompt layer in the vision tower; the text tower has fewer positions


def check_backbone(cfg: CfgNode, sizes: ClipSizes, depths: Mapping[str, str], tokens: Mapping[str, str]) -> None:
    """Check that the settings fit the backbone; one message names all keys that do not.

    Args:
        cfg: the whole configuration.
        sizes: of the backbone.
        depths: {key: tower} of the keys that are depths of prompts; the tower is "text", "vision" or "both".
        tokens: {key: tower} of the keys that are numbers of prompt tokens.

    Raises:
        ConfigError: a setting does not fit.
    """
    name, wrong = cfg.MODEL.BACKBONE.NAME, []
    if tuple(cfg.INPUT.SIZE) != (sizes.image, sizes.image):
        wrong.append(f"INPUT.SIZE: {tuple(cfg.INPUT.SIZE)}; expected ({sizes.image}, {sizes.image})")
    for key, tower in depths.items():
        layers = min(getattr(sizes, f"{each}_layers") for each in (("text", "vision") if tower == "both" else (tower,)))
        if value_of(cfg, key) > layers:
            expected = f"at most {layers}, the backbone's blocks" if layers else "a ViT as the backbone"
            wrong.append(f"{key}: {value_of(cfg, key)}; expected {expected}")
    for key, tower in tokens.items():
        most = sizes.context - 3 if tower == "text" else MAX_TOKENS  # SOS, a class name and EOT are left
        if value_of(cfg, key) > most:
            wrong.append(f"{key}: {value_of(cfg, key)}; expected at most {most}")
    if wrong:
        raise ConfigError(f"settings that the backbone {name} cannot have: {'; '.join(wrong)}")
