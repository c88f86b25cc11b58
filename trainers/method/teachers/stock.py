"""A stock CLIP as the teacher, on the engine."""

from collections.abc import Sequence

from torch import Tensor

from ...backbones import files_of, load_clip, source_of, tokenizer_of
from ...engine import clip_sizes
from ...engine.precision import Precision, cast_clip
from ..zero_shot import zero_shot_model
from .base import Teacher


class StockTeacher(Teacher, prefix=""):
    """A stock CLIP with a template around the class names.

    Args:
        name: what `load_clip` takes.
        names: the class names.
        template: a text with {} for the class name.
        precision: dtypes of its weights.

    Raises:
        BackboneError: the weights cannot be loaded.
    """

    def __init__(self, name: str, names: Sequence[str], template: str, precision: Precision):
        super().__init__()
        clip_model = load_clip(name)
        self.paths = files_of(name) if clip_model.fingerprint else ()  # see `backbones.weightless`
        self.size = clip_sizes(clip_model).image
        if (source := source_of(name)) is not None:
            self.statistics = source.images.mean, source.images.std
            self.interpolation = source.images.interpolation
        self.model = zero_shot_model(clip_model, tokenizer_of(clip_model).encode, names, template)
        cast_clip(clip_model, precision.weights)

    def image_features(self, image: Tensor) -> Tensor:
        return self.model.image_features(image)

    def _class_features(self) -> Tensor:
        return self.model.class_features()

    def scale(self) -> Tensor:
        return self.model.clip.logit_scale.exp()
