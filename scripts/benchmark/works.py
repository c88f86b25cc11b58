"""Training steps and evaluations to measure, computed by the engine and by the plain definition of the tests.

The models have random weights at the sizes of OpenAI's models; no data or downloads are needed.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests import plain
from trainers.backbones import tokenizer
from trainers.engine import Learner, PromptedCLIP, PromptGroup, worded_texts
from trainers.engine.blocks import at_least_float32
from trainers.engine.precision import cast_clip
from trainers.engine.symbols import arrange, slots
from trainers.engine.tokens import BOOSTING, SOS
from trainers.experiments.workload import synthetic_names
from trainers.hosts import cocoop, coop, maple, promptsrc
from trainers.method.boosting import build_student
from trainers.method.losses import kl_divergence


@dataclass(frozen=True)
class Size:
    """The sizes of a CLIP, the number of prompt tokens per layer, and the name of the teacher's size."""

    embed: int
    image: int
    layers: int
    width: int
    patch: int
    text_width: int
    text_layers: int
    tokens: int = 8
    teacher: str = "vit_l14"


SIZES = {
    "vit_b32": Size(512, 224, 12, 768, 32, 512, 12),
    "vit_b16": Size(512, 224, 12, 768, 16, 512, 12),
    "vit_l14": Size(768, 224, 24, 1024, 14, 768, 12),
    "narrow_b16": Size(64, 32, 12, 64, 8, 64, 12, teacher="narrow_l14"),  # for counts that do not depend on the width
    "narrow_l14": Size(64, 32, 24, 64, 8, 64, 12),
    "small": Size(64, 32, 3, 64, 8, 64, 3, tokens=2, teacher="small"),
}
BATCH = {"CoOp": 8, "CoCoOp": 1, "MaPLe": 4, "PromptSRC": 4, "CasPL": 4}
HOSTS = ("CoOp", "CoCoOp", "MaPLe", "PromptSRC")


def random_clip(size: Size, device: torch.device) -> nn.Module:
    """Build a frozen stock CLIP with random weights in float32."""
    from clip.model import CLIP  # after trainers.compat

    text = (77, 49408, size.text_width, max(1, size.text_width // 64), size.text_layers)
    model = CLIP(size.embed, size.image, size.layers, size.width, size.patch, *text)
    return model.float().requires_grad_(False).eval().to(device)


def boosting_for(clip_model: nn.Module, tokens: int) -> PromptGroup:
    """Build a frozen boosting prompt with `tokens` tokens in every block of both towers."""
    text, vision = clip_model.transformer, clip_model.visual.transformer
    group = PromptGroup.random((text.layers, tokens, text.width), (vision.layers, tokens, vision.width))
    return group.freeze()


def host_model(host: str, clip_model: nn.Module, names: Sequence[str], tokens: int) -> PromptedCLIP:
    """Build a host with the paper's recipe; deep prompts have tokens in every block."""
    depth = clip_model.transformer.layers
    if host == "CoOp":
        return coop.build(clip_model, names, n_ctx=tokens)
    if host == "CoCoOp":
        return cocoop.build(clip_model, names, n_ctx=tokens)
    if host == "MaPLe":
        return maple.build(clip_model, names, n_ctx=tokens, prompt_depth=depth)
    both = {"n_ctx_vision": tokens, "n_ctx_text": tokens, "prompt_depth_vision": depth, "prompt_depth_text": depth}
    return promptsrc.build(clip_model, names, **both, templates=["a photo of a {}."])


def _twin(model: PromptedCLIP) -> PromptedCLIP:
    """Copy a model with shared weights, so that its parts can be replaced."""
    twin = copy.copy(model)
    twin._modules = dict(model._modules)
    twin._at_a_time = {}
    return twin


def as_plain(model: PromptedCLIP) -> PromptedCLIP:
    """Copy a model with shared weights that computes by the plain definition and caches nothing."""
    other = _twin(model)
    tokens = 0 if model.boosting is None else model.boosting.text.shape[1]
    sequences = [(SOS, *arrange(text, slots(BOOSTING, tokens), "host_first")) for text in model.texts]

    def image_features(self, image: Tensor) -> Tensor:
        stacks = self._stacks(self.prompt_learner.vision_stack(), "vision")
        return F.normalize(at_least_float32(plain.image_features(self.clip, image, stacks)), dim=-1)

    def text_features(self, of_host, images: int = 1) -> Tensor:
        each = [
            [tokens[i, 0] if tokens.dim() == 4 else tokens for tokens in of_host]  # CoCoOp: one image after the other
            for i in range(images)
        ]
        rows = [plain.text_features(self.clip, sequences, self._stacks(stack, "text")) for stack in each]
        return F.normalize(at_least_float32(torch.stack(rows)), dim=-1)

    @torch.no_grad()
    def frozen_image_features(self, image: Tensor) -> Tensor:
        return F.normalize(at_least_float32(plain.image_features(self.clip, image, [])), dim=-1)

    for method in (image_features, text_features, frozen_image_features):
        setattr(other, method.__name__, MethodType(method, other))
    other.class_features = other._class_features
    return other


@dataclass(frozen=True)
class Step:
    """A training step without the optimiser's update: the loss and its gradients.

    Attributes:
        model: the model that is trained.
        loss: computes its loss.
    """

    model: nn.Module
    loss: Callable[[], Tensor]

    def __call__(self) -> Tensor:
        """Compute the gradients; return the loss."""
        self.model.zero_grad(set_to_none=True)
        value = self.loss()
        value.backward()
        return value.detach()


def _cascaded(
    host: str, size: Size, classes: int, device: torch.device, dtype: torch.dtype
) -> tuple[PromptedCLIP, PromptedCLIP]:
    """Build CasPL_<host> and the host alone, with shared weights."""
    clip_model = random_clip(size, device)
    model = host_model(host, clip_model, synthetic_names(classes), size.tokens).to(device)
    cast_clip(clip_model, dtype)
    alone = _twin(model)
    model.cascade(boosting_for(clip_model, size.tokens).to(device), "host_first")
    return model, alone


def host_works(host: str, size: Size, classes: int, device: torch.device, dtype: torch.dtype, batch: int = 0) -> dict:
    """Return training steps of CasPL_<host>, "plain" and "engine", and of the host alone on the engine, "host"."""
    model, alone = _cascaded(host, size, classes, device, dtype)
    batch = batch or BATCH[host]
    image = torch.randn(batch, 3, size.image, size.image, device=device)
    label = torch.arange(batch, device=device) % classes
    models = {"plain": as_plain(model), "engine": model, "host": alone}
    return {k: Step(m, lambda m=m: sum(m.loss_terms(image, label)[0].values())) for k, m in models.items()}


def boosting_works(size: Size, classes: int, device: torch.device, dtype: torch.dtype, batch: int = 0) -> dict:
    """Return steps of phase 1: "plain", "engine", and "cached", the engine with precomputed teacher features."""
    names = synthetic_names(classes)
    clip_model, large = (cast_clip(random_clip(each, device), dtype) for each in (size, SIZES[size.teacher]))
    depths = (clip_model.transformer.layers, clip_model.visual.transformer.layers)
    model = build_student(clip_model, names, size.tokens, size.tokens, *depths, order="host_first").to(device)
    teacher = PromptedCLIP(large, Learner(), worded_texts(tokenizer().encode, names, "a photo of a {}.")).to(device)
    image = torch.randn(batch or BATCH["CasPL"], 3, size.image, size.image, device=device)
    with torch.no_grad():
        known = F.normalize(torch.randn(len(image), teacher.class_features().shape[1], device=device), dim=-1)
        of_plain = teacher.class_features()  # the published code also computes them once
    plain_teacher = as_plain(teacher)
    plain_teacher.class_features = lambda: of_plain
    cached = _twin(teacher)
    cached.image_features = lambda image: known

    def loss(student: nn.Module, guide: nn.Module) -> Tensor:
        with torch.no_grad():
            wanted = guide(image)
        return kl_divergence(student(image), wanted, 1.0)

    pairs = {"plain": (as_plain(model), plain_teacher), "engine": (model, teacher), "cached": (model, cached)}
    return {k: Step(student, lambda s=student, g=guide: loss(s, g)) for k, (student, guide) in pairs.items()}


def evaluation_works(
    host: str, size: Size, classes: int, device: torch.device, dtype: torch.dtype, images: int = 1000, batch: int = 100
) -> dict:
    """Return evaluations of CasPL_<host>, "plain" and "engine", and of the host alone on the engine, "host"."""
    model, alone = _cascaded(host, size, classes, device, dtype)
    image = torch.randn(min(batch, images), 3, size.image, size.image, device=device)

    def evaluate(of: PromptedCLIP) -> None:
        of._cached = None  # each evaluation computes the class features, once
        with torch.no_grad():
            for start in range(0, images, batch):
                of(image[: images - start])

    models = {"plain": as_plain(model), "engine": model, "host": alone}
    return {k: (lambda m=m: evaluate(m)) for k, m in models.items()}
