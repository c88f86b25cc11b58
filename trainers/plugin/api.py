"""Boost any CLIP: `caspl.inject(model, prompt)` and `with caspl.boosted(model, prompt)`.

The model's own calls (`encode_image`, `encode_text`, `get_image_features`, a pipeline around it) are boosted. Supported
are OpenAI's `clip` models, open_clip's `CLIP` and `CustomTextCLIP`, Hugging Face's `CLIPModel`, and the models of the CoOp
family. Of a timm ViT in open_clip (SigLIP) the image tower is supported; its text tower has no causal mask.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from ..backbones import fingerprint
from ..engine import PromptGroup
from ..method.prompt_file import CheckpointError, load_boosting
from . import inject as hooks
from .inject import Injection
from .structure import look_up, unwrap

# Paths of the projections (d, E) of a CLIP, or of the linear layers that hold them transposed.
_PROJECTIONS = (("visual.proj", "visual_projection"), ("text_projection", "text.text_projection"))


def inject(model: nn.Module, prompt: PromptGroup | str | Path, order: str = "boosting_first", **options) -> Injection:
    """Bring a boosting prompt into a model.

    Its `remove()` restores the model bit for bit.

    Args:
        model: a CLIP, or a model with CLIP's towers. Only towers that the prompt has tokens for are needed.
        prompt: a boosting prompt, or the path of its file.
        order: its place in a text, boosting_first or host_first.
        options: `host_tokens` and `class_names` of `plugin.inject.inject`, for models of the CoOp family.

    Returns:
        the injection.

    Raises:
        HostError: the model has not the structure of a CLIP, or has a boosting prompt already.
        CheckpointError: the file is damaged, or its prompt was trained for another backbone.
        ValueError: the tokens do not fit the towers.
    """
    if isinstance(prompt, PromptGroup):
        return hooks.inject(model, prompt, order, **options)
    group, info = load_boosting(prompt)
    found = fingerprint_of(unwrap(model))
    if info.student_weights and found and found != info.student_weights:
        raise CheckpointError(
            f"{prompt}: student weights {info.student_weights} (student {info.student or 'unknown'}); expected {found}, as "
            f"this {type(unwrap(model)).__name__} has. Use the backbone that the prompt was trained for"
        )
    return hooks.inject(model, group, order, **options)


@contextmanager
def boosted(model: nn.Module, prompt: PromptGroup | str | Path, order: str = "boosting_first") -> Iterator[nn.Module]:
    """Boost a model while the block runs; see `inject`. Yields the model."""
    injection = inject(model, prompt, order)
    try:
        yield model
    finally:
        injection.remove()


def fingerprint_of(model: nn.Module) -> str:
    """Return the fingerprint of a CLIP's weights, "" if its projections are not found."""
    found: list[Tensor] = []
    for paths in _PROJECTIONS:
        parts = [part for part in (look_up(model, path) for path in paths) if part is not None]
        if not parts:
            return ""
        part = parts[0]
        found.append(part if isinstance(part, Tensor) else part.weight.t())
    return fingerprint(*found)
