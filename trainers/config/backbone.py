"""A configuration checked against its backbone: image size, depths and numbers of prompt tokens."""

import math
from typing import TYPE_CHECKING, Any

from yacs.config import CfgNode

from .errors import ConfigError
from .fields import value_of
from .keys import fields_of

if TYPE_CHECKING:
    from ..backbones.source import Source
    from ..engine import ClipSizes


def check_backbone(cfg: CfgNode, sizes: "ClipSizes", source: "Source | None" = None) -> None:
    """Check that the settings fit the backbone.

    Args:
        cfg: the whole configuration.
        sizes: of the backbone.
        source: its library's configuration, if it has one.

    Raises:
        ConfigError: settings do not fit; the message names each of them.
    """
    if found := backbone_problems(cfg, sizes, source):
        raise ConfigError("; ".join(found))


def image_keys(cfg: CfgNode, sizes: "ClipSizes", source: "Source | None") -> dict[str, Any]:
    """Return {key: value} of the images that a backbone takes.

    Only the size if it has no configuration of a library.
    """
    keys: dict[str, Any] = {"INPUT.SIZE": (sizes.image, sizes.image)}
    if source is not None:
        keys["INPUT.INTERPOLATION"] = source.images.interpolation
        if "normalize" in cfg.INPUT.TRANSFORMS:
            keys |= {"INPUT.PIXEL_MEAN": list(source.images.mean), "INPUT.PIXEL_STD": list(source.images.std)}
    return keys


def backbone_problems(cfg: CfgNode, sizes: "ClipSizes", source: "Source | None" = None) -> list[str]:
    """Return what is wrong with a configuration for a backbone of these sizes."""
    name, found = cfg.MODEL.BACKBONE.NAME, []
    for key, value in image_keys(cfg, sizes, source).items():
        if not _same(value_of(cfg, key), value):
            shown = tuple(value_of(cfg, key)) if isinstance(value, tuple) else value_of(cfg, key)
            found.append(f"{key}: {shown}; expected {value} for the backbone {name}")
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


def _same(one: Any, other: Any) -> bool:
    """Return whether two settings are equal; numbers may differ by rounding."""
    if isinstance(other, str):
        return one == other
    return len(one) == len(other) and all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(one, other, strict=True))
