"""Zero-shot classifiers: class vectors from templates, without anything learned (arXiv 2103.00020, section 3.1)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine import Learner, PromptedCLIP, encode_text, layout_of, special_tokens, worded_texts
from ..engine.blocks import StockModule, at_least_float32
from ..engine.memory import classes_at_a_time
from ..engine.tokens import Encode
from .templates import expand


class ZeroShotModel(PromptedCLIP):
    """A CLIP without learned parameters, with one or several texts per class.

    Attributes:
        counts: number of texts of each class, in the order of its texts; None: one.
    """

    counts: Sequence[int] | None = None

    def _class_features(self) -> Tensor:
        return mean_per_class(super()._class_features(), self.counts)


def mean_per_class(features: Tensor, counts: Sequence[int] | None) -> Tensor:
    """Average the normalised features (T, E) of each class's texts and normalise the means (C, E).

    Args:
        features: all texts of the first class, then those of the second, ...
        counts: number of texts of each class; None: one each, the features are returned.
    """
    if counts is None:
        return features
    return F.normalize(torch.stack([group.mean(dim=0) for group in features.split(list(counts))]), dim=-1)


def zero_shot_model(model: StockModule, encode: Encode, names: Sequence[str], template: str) -> PromptedCLIP:
    """Build the zero-shot classifier of a template as a model without learned parameters.

    Args:
        model: a frozen stock CLIP.
        encode: the model's byte-pair encoder.
        names: the C class names.
        template: a text with {} for the class name, or a JSON file of texts, see `templates.expand`.

    Raises:
        ConfigError: the JSON file is invalid.
        ValueError: the template has no {}, or a text is too long for the text tower.
    """
    names, template, counts = expand(template, names)
    zero_shot = ZeroShotModel(model, Learner(), worded_texts(encode, names, template, special_tokens(model)[1]))
    zero_shot.counts = counts
    return zero_shot


@torch.no_grad()
def build_zero_shot_classifier(
    model: StockModule, encode: Encode, names: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """Return the class vectors (C, E): the mean text features over the templates, then normalised.

    The features of the templates are averaged before normalisation, as PromptSRC does
    (github.com/muzairkhattak/PromptSRC).

    Args:
        model: a frozen stock CLIP.
        encode: the model's byte-pair encoder.
        names: the C class names.
        templates: texts with {} for the class name.

    Raises:
        ValueError: a template has no {}, or a text is too long for the text tower.
    """
    features = []
    (sos, eot), positions = special_tokens(model), len(model.positional_embedding)
    for template in templates:
        layout = layout_of(worded_texts(encode, names, template, eot), context_length=positions, sos=sos)
        layout = layout.to(model.logit_scale.device)
        chunk = classes_at_a_time(model, layout, 1, False)
        features.append(at_least_float32(encode_text(model, layout, chunk=chunk)[0]))  # (C, E)
    return F.normalize(torch.stack(features).mean(dim=0), dim=-1)
