"""The sizes of a backbone by its name, without building it."""

import functools
import os
from pathlib import Path

from ..engine import ClipSizes
from .errors import BackboneError
from .files import find_weights, is_published, read_backbone
from .openai import state_sizes
from .source import source_of

_TEXT = {"text_layers": 12, "context": 77}
_VIT_B = ClipSizes(**_TEXT, text_width=512, vision_width=768, vision_layers=12, embedding=512, image=224)
_VIT_L = ClipSizes(**_TEXT, text_width=768, vision_width=1024, vision_layers=24, embedding=768, image=224)
_VIT_L_336 = ClipSizes(**_TEXT, text_width=768, vision_width=1024, vision_layers=24, embedding=768, image=336)


def _resnet(width: int, embedding: int, image: int) -> ClipSizes:
    return ClipSizes(**_TEXT, text_width=width, vision_width=0, vision_layers=0, embedding=embedding, image=image)


# OpenAI's models (github.com/openai/CLIP), whose files need not be downloaded to know their sizes.
_PUBLISHED = {
    "ViT-B/32": _VIT_B,
    "ViT-B/16": _VIT_B,
    "ViT-L/14": _VIT_L,
    "ViT-L/14@336px": _VIT_L_336,
    "RN50": _resnet(512, 1024, 224),
    "RN101": _resnet(512, 512, 224),
    "RN50x4": _resnet(640, 640, 288),
    "RN50x16": _resnet(768, 768, 384),
    "RN50x64": _resnet(1024, 1024, 448),
}

PATCHES = dict.fromkeys(_PUBLISHED, 0) | {
    "ViT-B/32": 32,
    "ViT-B/16": 16,
    "ViT-L/14": 14,
    "ViT-L/14@336px": 14,
}  # 0: a ResNet


def sizes_of(name: str) -> ClipSizes | None:
    """Return the sizes of a backbone.

    None if its file is not in OpenAI's layout, which loading it reports.

    Args:
        name: as for `load_clip`.

    Raises:
        BackboneError: the name is unknown, the file cannot be read as weights, or the engine does not compute the model.
    """
    if (source := source_of(name)) is not None:
        return source.sizes
    if name in _PUBLISHED and is_published(name):
        return _PUBLISHED[name]
    path = find_weights(name)
    found = os.stat(path)
    return _sizes_in(str(path), found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=16)
def _sizes_in(path: str, _changed: int, _bytes: int) -> ClipSizes | None:
    try:
        return state_sizes(read_backbone(str(Path(path)))[0])
    except BackboneError:
        raise
    except (KeyError, ValueError, IndexError):
        return None
