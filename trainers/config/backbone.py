"""A configuration checked against its backbone: image size, depths and numbers of prompt tokens."""

from typing import TYPE_CHECKING

from yacs.config import CfgNode

from .errors import ConfigError
from .fields import value_of
from .keys import fields_of

if TYPE_CHECKING:
    from ..engine import ClipSizes


def check_backbone(cfg: CfgNode, sizes: "ClipSizes") -> None:
    """Check that the settings fit the backbone.

    Args:
        cfg: the whole configuration.
        sizes: of the backbone.

    Raises:
        ConfigError: settings do not fit; the message names each of them.
    """
    if found := backbone_problems(cfg, sizes):
        raise ConfigError("; ".join(found))


def backbone_problems(cfg: CfgNode, sizes: "ClipSizes") -> list[str]:
    """Return what is wrong with a configuration for a backbone of these sizes."""
    name, size = cfg.MODEL.BACKBONE.NAME, (sizes.image, sizes.image)
    found = []
    if tuple(cfg.INPUT.SIZE) != size:
        found.append(f"INPUT.SIZE: {tuple(cfg.INPUT.SIZE)}; expected {size} for the backbone {name}")
    most = {
        "text_layers": sizes.text_layers,
        "last_text_layer": sizes.text_layers - 1,
        "vision_layers": sizes.vision_layers,
        "text_positions": sizes.context - 3,  # SOS, a class name and EOT are left
    }
    for field in fields_of(cfg.TRAINER.NAME):
        bound = min((most[limit] for limit in field.limits), default=None)
        if bound is not None and (field.unread is None or not field.unread(cfg)) and value_of(cfg, field.name) > bound:
            if not sizes.vision_layers and bound == 0:
                found.append(
                    f"MODEL.BACKBONE.NAME: {name} is a ResNet; expected a ViT, whose tokens {field.name} needs"
                )
                continue
            what = "positions" if "text_positions" in field.limits else "blocks"
            found.append(
                f"{field.name}: {value_of(cfg, field.name)}; expected at most {bound}, the {what} of the backbone {name}"
            )
    return found
