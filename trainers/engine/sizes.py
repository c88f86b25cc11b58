"""The sizes of a CLIP's towers, read off its modules."""

from dataclasses import dataclass

from .kernels import StockModule


@dataclass(frozen=True)
class ClipSizes:
    """Sizes of a CLIP.

    Attributes:
        text_width, text_layers: channels and blocks of the text tower.
        vision_width, vision_layers: channels and blocks of the vision tower; 0 for a ResNet, which has no tokens.
        embedding: width of the features that both towers share.
        image: side of its square images in pixels.
        context: positions of the text tower.
    """

    text_width: int
    text_layers: int
    vision_width: int
    vision_layers: int
    embedding: int
    image: int
    context: int


def clip_sizes(model: StockModule) -> ClipSizes:
    """Return the sizes of a stock CLIP (`clip.model.CLIP`), with or without its text tower."""
    if (known := getattr(model, "sizes", None)) is not None:
        return known
    vision = getattr(model.visual, "transformer", None)
    return ClipSizes(
        text_width=model.ln_final.weight.shape[0],
        text_layers=len(model.transformer.resblocks),
        vision_width=0 if vision is None else model.visual.class_embedding.shape[0],
        vision_layers=0 if vision is None else len(vision.resblocks),
        embedding=model.text_projection.shape[1],
        image=model.visual.input_resolution,
        context=len(model.positional_embedding),
    )


def drop_text_tower(model: StockModule) -> None:
    """Free the text tower of a stock CLIP, whose image encoder and logit scale stay.

    Args:
        model: `clip.model.CLIP`; changed in place.
    """
    model.sizes = clip_sizes(model)
    for name in ("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection"):
        if hasattr(model, name):
            delattr(model, name)
