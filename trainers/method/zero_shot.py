"""Zero-shot classifiers: class vectors from templates, without anything learned (arXiv 2103.00020, section 3.1)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine import Learner, PromptedCLIP, encode_text, layout_of, worded_texts
from ..engine.blocks import StockModule, at_least_float32
from ..engine.memory import classes_at_a_time
from ..engine.tokens import Encode


def zero_shot_model(model: StockModule, encode: Encode, names: Sequence[str], template: str) -> PromptedCLIP:
    """Build the zero-shot classifier of one template as a model without learned parameters.

    Args:
        model: a frozen stock CLIP.
        encode: CLIP's byte-pair encoder.
        names: the C class names.
        template: a text with {} for the class name.

    Raises:
        ValueError: the template has no {}, or a text is too long for the text tower.
    """
    return PromptedCLIP(model, Learner(), worded_texts(encode, names, template))


@torch.no_grad()
def build_zero_shot_classifier(
    model: StockModule, encode: Encode, names: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """Return the class vectors (C, E): the mean text features over the templates, then normalised.

    The features of the templates are averaged before normalisation, as PromptSRC does
    (github.com/muzairkhattak/PromptSRC).

    Args:
        model: a frozen stock CLIP.
        encode: CLIP's byte-pair encoder.
        names: the C class names.
        templates: texts with {} for the class name.

    Raises:
        ValueError: a template has no {}, or a text is too long for the text tower.
    """
    features = []
    for template in templates:
        layout = layout_of(worded_texts(encode, names, template)).to(model.logit_scale.device)
        chunk = classes_at_a_time(model, layout, 1, False)
        features.append(at_least_float32(encode_text(model, layout, chunk=chunk)[0]))  # (C, E)
    return F.normalize(torch.stack(features).mean(dim=0), dim=-1)
