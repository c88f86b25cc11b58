"""PromptKD: a larger prompted teacher taught to a student's image encoder on unlabelled images (arXiv 2403.02781,
github.com/zhengli97/PromptKD).
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor, nn
from yacs.config import CfgNode

from .. import config
from ..backbones import load_clip, source_of
from ..config import Field, OnlyWith
from ..engine import Learner, PromptedCLIP, PromptGroup, Stack, TextLayout, clip_sizes, drop_text_tower
from ..engine.blocks import StockModule
from ..engine.precision import Precision, cast_clip, choose
from ..engine.tokens import EOT, SOS
from ..method.losses import kl_divergence
from ..method.taught import Taught, teacher_transforms
from ..method.teachers import Teacher, load_teacher
from ..method.templates import template_of
from ..training import provenance
from ..training.class_vectors import ClassVectors, read_class_vectors
from ..training.shared_norm import SharedBatchNorm
from .base import PREC, HostTrainer

logger = logging.getLogger(__name__)


class DistilledPrompts(Learner):
    """Vision prompts, and the projector of the student's image features into the teacher's space.

    Args:
        vision: (depth, n, d).
        features: width of the student's image features.
        class_vectors: (C, E), the teacher's normalised class vectors.
    """

    class_vectors: Tensor

    def __init__(self, vision: Tensor, features: int, class_vectors: Tensor):
        super().__init__()
        width = class_vectors.shape[1]
        self.vision = nn.Parameter(vision)
        self.projector = nn.Sequential(
            nn.Linear(features, width), SharedBatchNorm(width), nn.ReLU(), nn.Linear(width, width)
        )
        self.register_buffer("class_vectors", class_vectors, persistent=False)

    def vision_stack(self) -> Stack:
        """Return `depth` layers (n, d)."""
        return list(self.vision)


class DistilledModel(PromptedCLIP):
    """A classifier of projected image features and the teacher's class vectors.

    It uses no text tower.
    """

    prompt_learner: DistilledPrompts

    def image_head(self) -> nn.Module:
        """Return the projector into the teacher's space."""
        return self.prompt_learner.projector

    def class_features(self) -> Tensor:
        """Return the teacher's class vectors (C, E)."""
        return self.prompt_learner.class_vectors

    def cascade(self, group: PromptGroup | None, order: str = "boosting_first") -> None:
        """Add a boosting prompt; only its vision tokens have an effect."""
        if group is not None and group.text.numel():
            logger.warning("PromptKD does not use the text tower: the boosting prompt's text tokens have no effect")
        super().cascade(group, order)

    def _layout(self, boosting: int = 0, order: str = "boosting_first") -> TextLayout:
        """Build a layout of one empty text."""
        return TextLayout([(SOS, EOT)], ["no text"])


def build(
    clip_model: StockModule,
    names: Sequence[str],
    class_vectors: Tensor,
    n_ctx_vision: int = 4,
    prompt_depth_vision: int = 9,
) -> DistilledModel:
    """Build PromptKD's student.

    Args:
        clip_model: a frozen stock CLIP, with or without its text tower.
        names: C class names.
        class_vectors: (C, E), the teacher's normalised class vectors.
        n_ctx_vision: number of tokens in each vision layer.
        prompt_depth_vision: number of vision blocks with prompts.

    Raises:
        ValueError: there are not as many vectors as names.
    """
    if len(names) != len(class_vectors):
        raise ValueError(f"class vectors: {len(class_vectors)}; expected one for each of {len(names)} class names")
    sizes = clip_sizes(clip_model)
    vision = torch.randn(prompt_depth_vision, n_ctx_vision, sizes.vision_width) * 0.02
    learner = DistilledPrompts(vision, sizes.embedding, class_vectors.detach().float())
    return DistilledModel(clip_model, learner, [])


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float, weight: float) -> Tensor:
    """Compute weight * T^2 / (B C) * sum of KL(softmax(teacher / T) || softmax(student / T)), as published.

    Args:
        student: logits (B, C).
        teacher: logits (B, C).
        temperature: T.
        weight: of the loss.
    """
    return weight / student.shape[1] * kl_divergence(student, teacher, temperature)


@TRAINER_REGISTRY.register()
class PromptKD(Taught, HostTrainer):
    """Unsupervised Prompt Distillation, https://arxiv.org/abs/2403.02781

    It trains on the images of all classes, without labels and few-shot sampling, and is tested on those of the
    configuration. The last epoch is the result. The published code selects an epoch on the test set, which
    `TEST.FINAL_MODEL best_val` with `SELECT_ON test` does.
    """

    reads_labels = False
    model: Any  # a DistilledModel
    train_loader_x: Any
    node = "PROMPTKD"
    learner_name = "VLPromptLearner"
    evaluated_key = "CLASS_VECTORS"
    fields = (
        Field("N_CTX_VISION", 4, "vision tokens in each block", least=1, most=1000),
        Field("PROMPT_DEPTH_VISION", 9, "vision blocks with tokens", least=1, most=256, limits=("vision_layers",)),
        Field("TEMPERATURE", 1.0, "temperature of the distillation", above=0, most=10**6),
        Field("KD_WEIGHT", 1000.0, "weight of the loss", least=0, most=10**6),
        Field("TEACHER", "ViT-L/14", "the teacher: a backbone, open_clip:..., or run:<folder of a finished run>"),
        Field(
            "SELECT_ON",
            "val",
            "images that best_val selects the epoch on; test: as published, which tables mark",
            choices=("val", "test"),
            unread=OnlyWith("TEST.FINAL_MODEL", ("best_val",)),
        ),
        Field("VIEWS", 0, "augmentations of each image; 0: as many as epochs", least=0, most=10**6),
        Field("CACHE", "", "folder of the teacher's image features; empty: none are kept", path=True, place=True),
        Field(
            "CLASS_VECTORS",
            "",
            "folder of the run whose class vectors are used in evaluation, set by the program; empty: the teacher's",
            longest=1024,
            path=True,
            place=True,
        ),
        PREC,
    )

    @classmethod
    def node_problems(cls, cfg: CfgNode, training: bool = True) -> list[str]:
        """Reject class vectors of a run in training, which needs the teacher itself."""
        found = cfg.TRAINER[cls.node].CLASS_VECTORS
        if not training or not found:
            return []
        return [
            f"TRAINER.{cls.node}.CLASS_VECTORS: {found}; expected it to be empty in training, which uses the teacher"
        ]

    @classmethod
    def build_classifier(
        cls, cfg: CfgNode, names: Sequence[str], device: torch.device, training: bool = False
    ) -> tuple[PromptedCLIP, Precision]:
        """Build the student with the class vectors of the evaluated run.

        It has no text tower.
        """
        precision = choose(cfg.TRAINER[cls.node].PREC, device)
        vectors = cls._vectors_of(cfg, names, cls._kept(cfg), precision, device)
        return cls._build_student(cfg, names, vectors, precision, device), precision

    @classmethod
    def remake(cls, model: PromptedCLIP, names: Sequence[str], cfg: CfgNode) -> PromptedCLIP:
        """Build the student again for other classes, with their class vectors."""
        node, device = cfg.TRAINER[cls.node], model.clip.logit_scale.device
        vectors = cls._vectors_of(cfg, names, cls._kept(cfg), choose(node.PREC, device), device)
        return build(model.clip, names, vectors, node.N_CTX_VISION, node.PROMPT_DEPTH_VISION)

    @classmethod
    def _kept(cls, cfg: CfgNode) -> ClassVectors | None:
        """Return the class vectors that the evaluated run keeps; None in training, or of an earlier version's run."""
        run = cfg.TRAINER[cls.node].CLASS_VECTORS
        found = read_class_vectors(Path(run), cls.learner_name) if run else None
        if run and found is None:
            logger.info("%s has no class vectors (made by an earlier version): its teacher computes them", run)
        return found

    @classmethod
    def _vectors_of(
        cls, cfg: CfgNode, names: Sequence[str], kept: ClassVectors | None, precision: Precision, device: torch.device
    ) -> Tensor:
        """Return the class vectors (C, E) of these names, from the teacher where they are not all kept.

        Raises:
            ConfigError: the teacher is needed and cannot be loaded.
        """
        unknown = list(names) if kept is None else kept.unknown(names)
        if kept is not None and not unknown:
            return kept.of(names).to(device)
        try:
            with torch.no_grad():
                return cls._load_teacher(cfg, names, precision, device).class_features()
        except (ValueError, OSError) as error:
            node = f"TRAINER.{cls.node}"
            raise config.ConfigError(
                f"{node}.TEACHER: needed for the class vectors of {', '.join(map(repr, unknown[:5]))}, which the run does not "
                f"keep, but cannot be loaded ({error}). Use the run's own classes, or restore its teacher"
            ) from error

    @classmethod
    def _load_teacher(cls, cfg: CfgNode, names: Sequence[str], precision: Precision, device: torch.device) -> Teacher:
        template = template_of(cfg.DATASET.NAME)
        return load_teacher(cfg.TRAINER[cls.node].TEACHER, names, template, precision).to(device)

    @classmethod
    def _build_student(
        cls, cfg: CfgNode, names: Sequence[str], vectors: Tensor, precision: Precision, device: torch.device
    ) -> DistilledModel:
        node, clip_model = cfg.TRAINER[cls.node], load_clip(cfg.MODEL.BACKBONE.NAME)
        config.check_backbone(cfg, clip_sizes(clip_model), source_of(cfg.MODEL.BACKBONE.NAME))
        drop_text_tower(clip_model)
        model = build(clip_model, names, vectors, node.N_CTX_VISION, node.PROMPT_DEPTH_VISION)
        cast_clip(model.clip, precision.weights)
        return model.to(device)

    def build_data_loader(self) -> None:
        """Load the configured classes for testing, and the images of all classes for training."""
        super().build_data_loader()
        tested = {key: getattr(self, key) for key in ("dm", "val_loader", "test_loader", "num_classes", "lab2cname")}
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATASET.SUBSAMPLE_CLASSES, cfg.DATASET.NUM_SHOTS = "all", -1
        self.use_data(cfg)
        self.all_names = list(self.dm.dataset.classnames)
        for key, value in tested.items():
            setattr(self, key, value)
        if cfg.TRAINER[self.node].SELECT_ON == "test":
            self.val_loader = self.test_loader
        self.train_loader_x.dataset.views = cfg.TRAINER[self.node].VIEWS or cfg.TRAIN.VIEWS

    def data_seen(self) -> list[dict]:
        """Return the provenance: the images of all classes.

        Labels count only if an epoch is selected by them.
        """
        images, labels = len(self.train_loader_x.dataset), self.cfg.TEST.FINAL_MODEL == "best_val"
        return [provenance.item("adapting", self.cfg.DATASET.NAME, images, labels, "all", self.all_names)]

    def build_model(self) -> None:
        """Build the student with the class vectors of the tested classes.

        In training, the teacher for all classes.
        """
        precision = choose(self.cfg.TRAINER[self.node].PREC, self.device)
        names, kept = self.dm.dataset.classnames, self._kept(self.cfg)
        if not self.cfg.TRAINER[self.node].CLASS_VECTORS:
            kept = self._taught_vectors(precision)
        vectors = self._vectors_of(self.cfg, names, kept, precision, self.device)
        self.model = self._build_student(self.cfg, names, vectors, precision, self.device)
        self.register_learner(self.learner_name, self.model.prompt_learner, precision)

    def _taught_vectors(self, precision: Precision) -> ClassVectors:
        """Load the teacher, and return its class vectors, which the run keeps."""
        self.teacher = self._load_teacher(self.cfg, self.all_names, precision, self.device)
        self.transforms = teacher_transforms(self.cfg, self.teacher).to(self.device)
        with torch.no_grad():
            vectors = self.teacher.class_features().float().cpu()
        self.class_vectors = ClassVectors(tuple(self.all_names), vectors)
        return self.class_vectors

    def before_train(self) -> None:
        """Open the teacher cache; warn of a selection on the test images."""
        node = self.cfg.TRAINER[self.node]
        if self.cfg.TEST.FINAL_MODEL == "best_val" and node.SELECT_ON == "test":
            logger.warning("The epoch is selected on the test images, as published: its figures are optimistic")
        if node.CACHE:
            self.caches = self.caches_in(node.CACHE, [node.TEACHER], self.train_loader_x.dataset.views)
        super().before_train()

    def compute_loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch's images, and the share of them on which student and teacher agree."""
        node, image = self.cfg.TRAINER[self.node], batch["img"].to(self.device)
        with torch.no_grad():
            teacher = self.teacher.logits(self.known_or_computed(batch))  # (B, C)
            classes = self.teacher.class_features()  # (C, E)
        student = self.model.clip.logit_scale.exp() * self.model.image_features(image) @ classes.t()  # (B, C)
        agree = (student.argmax(dim=1) == teacher.argmax(dim=1)).float().mean() * 100
        return distillation_loss(student, teacher, node.TEMPERATURE, node.KD_WEIGHT), {"agreement": agree}
