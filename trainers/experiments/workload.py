"""A trainer's computations on synthetic images and class names: what a run computes, without its data or weights."""

import contextlib
import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from ..backbones import weightless
from ..engine import PromptedCLIP, PromptGroup, clip_sizes
from ..engine.counts import operations, peak_meta_bytes
from ..hosts.base import HostTrainer
from ..method.taught import Taught
from ..method.teachers import Teacher, load_teacher, teacher_names
from ..method.templates import template_of
from ..training.run import own_class

META = torch.device("meta")
WORDS = "red green dark light large small old new long short wild round flat tall young bright".split()


def synthetic_names(count: int) -> list[str]:
    """Return class names of 6 to 10 tokens, 8 on average; every word is one token."""
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=5 + draw.randint(0, 4))) + " cat" for _ in range(count)]


@dataclass(frozen=True)
class Key:
    """Configurations as a key of a cache: what a trainer computes does not depend on places, seeds and data."""

    cfg: CfgNode
    boosting: CfgNode | None

    @functools.cached_property
    def _text(self) -> str:
        made = []
        for cfg in (self.cfg, self.boosting):
            if cfg is not None:
                kept = cfg.clone()
                kept.defrost()
                kept.OUTPUT_DIR, kept.SEED = "", 0
                kept.DATASET = CfgNode()
                made.append(kept.dump())
        return "\n".join(made)

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self._text == other._text


class Workload:
    """The computations of a trainer.

    Args:
        cfg: its configuration.
        names: the class names.
        device: `META` to count, or a device to compute on.
        boosting: phase 1's configuration, for a cascaded trainer and for CLIP with the boosting prompt alone; None
            without a boosting prompt.

    Attributes:
        model: the classifier.
        teacher: the teacher; None without one, or if its operations are not counted.
        teacher_name: the teacher's name; empty without one.
    """

    teacher: Teacher | None = None
    teacher_name = ""

    def __init__(self, cfg: CfgNode, names: Sequence[str], device: torch.device, boosting: CfgNode | None = None):
        self.cfg, self.names, self.device = cfg, names, device
        own = own_class(cfg.TRAINER.NAME)
        if own is None or not hasattr(own, "build_classifier"):
            raise ValueError(f"TRAINER.NAME: {cfg.TRAINER.NAME}; expected a trainer of this package to count its cost")
        self.own = own
        with weightless(drawn=device != META):
            self.model: PromptedCLIP
            self.model, self.precision = own.build_classifier(cfg, names, device)
            if issubclass(own, Taught):
                self._add_teacher()
        if boosting is not None:
            group, order = self._prompt(boosting).to(device), boosting.TRAINER.CASPL.TEXT_ORDER
            if cfg.TRAINER.NAME.startswith("CasPL_") and cfg.TRAINER.CASPL.JOINT:
                self.model.join(group, order)
            else:
                self.model.cascade(group.freeze(), order)
        self.learned.to(self.precision.prompts)

    @property
    def learned(self) -> nn.Module:
        """The module whose parameters are trained."""
        of_phase_1 = self.own.__name__ == "CasPL"
        return self.model.boosting if of_phase_1 and self.model.boosting is not None else self.model.prompt_learner

    @property
    def weights(self) -> int:
        """Bytes of the parameters and buffers of the model and the teacher."""
        modules = [self.model, *([self.teacher] if self.teacher is not None else [])]
        tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @property
    def state(self) -> int:
        """Bytes of what is trained."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.learned.state_dict().values())

    @property
    def teacher_settings(self) -> tuple[str, str, int]:
        """The teacher's name, the folder of its cache, and the number of augmentations."""
        if self.own.__name__ == "CasPL":
            node = self.cfg.TRAINER.CASPL.TEACHER
            names = teacher_names(node)
            name = names[0] if len(names) == 1 else f"several: {' and '.join(names)}"
            return name, node.CACHE, node.VIEWS
        node = self.cfg.TRAINER[self.own.node]  # type: ignore[attr-defined]
        return node.TEACHER, node.CACHE, node.VIEWS

    def _add_teacher(self) -> None:
        """Load the teacher, unless its sizes are those of other weights than CLIP's."""
        self.teacher_name = self.teacher_settings[0]
        if ":" not in self.teacher_name or Path(self.teacher_name).is_file():
            template = template_of(self.cfg.DATASET.NAME)
            self.teacher = load_teacher(self.teacher_name, self.names, template, self.precision).to(self.device)

    def _prompt(self, boosting: CfgNode) -> PromptGroup:
        node, sizes = boosting.TRAINER.CASPL, clip_sizes(self.model.clip)
        text = (node.DEPTH_TEXT, node.N_CTX_TEXT, sizes.text_width)
        return PromptGroup.random(text, (node.DEPTH_VISION, node.N_CTX_VISION, sizes.vision_width))

    def images(self, count: int, size: int = 0) -> Tensor:
        """Return images (count, 3, R, R)."""
        side = size or self.cfg.INPUT.SIZE[0]
        return torch.zeros(count, 3, side, side, device=self.device)

    def prepare(self) -> None:
        """Compute what precedes the first step: class features that stay constant."""
        with torch.no_grad():
            if issubclass(self.own, HostTrainer):
                self.own.prepare_training(self.model, self.names, self.cfg)
            if self.teacher is not None:
                self.teacher.class_features()

    def teach(self, images: int) -> None:
        """Compute the teacher's features."""
        if self.teacher is not None:
            with torch.no_grad():
                self.teacher.image_features(self.images(images, self.teacher.size))

    def step(self, images: int) -> None:
        """Compute a training step without the teacher's features and the optimiser's update."""
        self.model.train().zero_grad(set_to_none=True)
        label = torch.zeros(images, dtype=torch.long, device=self.device)
        with contextlib.nullcontext() if self.device == META else self.precision.context(self.device):
            if issubclass(self.own, Taught):
                loss = self.model(self.images(images)).float().logsumexp(dim=1).mean()
            else:
                loss = torch.stack([*self.model.loss_terms(self.images(images), label)[0].values()]).sum()
        loss.backward()

    def evaluate(self, images: int) -> None:
        """Classify images, computing the class features."""
        self.model.eval().requires_grad_(False)._cached = None
        self.classify(images)

    def classify(self, images: int) -> None:
        """Classify images after `evaluate`, with the class features that it has kept."""
        with torch.no_grad():
            self.model(self.images(images))

    def encode(self, images: int) -> None:
        """Compute image features."""
        with torch.no_grad():
            self.model.encode(self.images(images))


def per_image(work: Callable[[int], object]) -> tuple[int, int]:
    """Return (operations once, operations per image) of work that takes a number of images."""
    one, two = operations(lambda: work(1)), operations(lambda: work(2))
    return 2 * one - two, two - one


def peak(work: Callable[[int], object], images: int) -> int:
    """Return the peak memory in bytes of work on a number of images.

    It grows linearly from 2 images on.
    """
    if images <= 2:
        return peak_meta_bytes(lambda: work(images))
    two, three = peak_meta_bytes(lambda: work(2)), peak_meta_bytes(lambda: work(3))
    return two + (three - two) * (images - 2)
