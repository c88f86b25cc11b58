"""Phase 1: the trainer `CasPL`, which distils a boosting prompt from a larger CLIP on unlabelled images
(arXiv 2409.17805, section 3.2)."""

import logging
from pathlib import Path

import torch
import torchvision
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode

from .. import config
from ..backbones import image_size, load_clip, tokenizer
from ..engine import (
    ClassText,
    Learner,
    PromptedCLIP,
    PromptGroup,
    host_texts,
    initial_context,
    words_to_start_from,
)
from ..engine.blocks import at_least_float32
from ..engine.precision import Precision, cast_clip, choose
from ..training import parallel
from ..training.provenance import training_item
from ..training.trainer import PromptTrainer
from .prompt_file import FILE_NAME, BoostingInfo, save_boosting
from .teacher import Teacher, View, load_teacher
from .teacher_cache import TeacherCache, described_images
from .templates import template_of

logger = logging.getLogger(__name__)


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(softmax(teacher / T) || softmax(student / T)) * T^2 / B of logits (B, C), in float32 at least."""
    student, teacher = at_least_float32(student) / temperature, at_least_float32(teacher) / temperature
    divergence = F.kl_div(student.log_softmax(dim=1), teacher.softmax(dim=1), reduction="sum")
    return divergence * temperature**2 / len(student)


def teacher_view(cfg, teacher: Teacher) -> View:
    """The way from the student's batches to the teacher's."""
    mean, std = (0.0,) * 3, (1.0,) * 3
    if "normalize" in cfg.INPUT.TRANSFORMS:
        mean, std = cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD
    return View(teacher, cfg.INPUT.SIZE[0], mean, std)


def build_student(
    clip_model: nn.Module,
    names: list[str],
    n_ctx_text: int,
    n_ctx_vision: int,
    depth_text: int,
    depth_vision: int,
    ctx_init: str = "",
    order: str = "boosting_first",
    host_words: str = "",
) -> PromptedCLIP:
    """A CLIP with a boosting prompt to be learned, and nothing else.

    Args:
        clip_model: the student, a frozen stock CLIP.
        names: the class names.
        n_ctx_text, n_ctx_vision: tokens in each tower; depth_text, depth_vision: in how many blocks.
        ctx_init: words that the first text layer starts from (4 tokens at most); those left over stay as words.
        order: where the boosting prompt stands beside `host_words` (see `engine.layout.arrange`).
        host_words: words that stand where the host's context will stand in phase 2 (the published code has none).
    """
    encode = tokenizer().encode
    n_ctx_text = n_ctx_text if depth_text else 0
    words = words_to_start_from(ctx_init, n_ctx_text)
    first = initial_context(clip_model, encode, n_ctx_text, words)
    text = torch.cat([first[None], torch.randn(max(depth_text - 1, 0), *first.shape) * 0.02])[:depth_text]
    vision = torch.randn(depth_vision, n_ctx_vision, clip_model.visual.class_embedding.shape[0]) * 0.02
    left_over = tuple(encode(words)[n_ctx_text:])
    head = tuple(encode(host_words))
    texts = [ClassText(t.name, head, (*left_over, *t.tail)) for t in host_texts(encode, names, 0)]
    student = PromptedCLIP(clip_model, Learner(), texts)
    student.cascade(PromptGroup(text, vision), order)
    return student


@TRAINER_REGISTRY.register()
class CasPL(PromptTrainer):
    """Trains the boosting prompt and writes it to `<OUTPUT_DIR>/boosting.safetensors`. Labels are never read."""

    reads_labels = False

    def data_seen(self) -> list[dict]:
        """What phase 1 sees (see `ledger`)."""
        return [training_item(self, "boosting")]

    def check_cfg(self, cfg) -> None:
        """Dassl's hook: check the configuration before anything is built."""
        config.check_cfg(cfg)

    def build_data_loader(self) -> None:
        """Dassl's hook. The classes are those of `TRAINER.CASPL.CLASSES`, unless a subset is asked for (to evaluate)."""
        cfg = self.cfg.clone()
        if cfg.DATASET.SUBSAMPLE_CLASSES == "all":
            cfg.defrost()
            cfg.DATASET.SUBSAMPLE_CLASSES = cfg.TRAINER.CASPL.CLASSES
        self.classes = cfg.DATASET.SUBSAMPLE_CLASSES
        self.use_data(cfg)
        self.train_loader_x.dataset.views = cfg.TRAINER.CASPL.TEACHER.VIEWS

    @classmethod
    def build_classifier(cls, cfg: CfgNode, names: list[str], device: torch.device) -> tuple[PromptedCLIP, Precision]:
        """Build the student that a configuration describes, with a fresh boosting prompt; without any data.

        Returns:
            The student, with CLIP's weights in the precision that is returned with it.

        Raises:
            ConfigError: a value does not fit the backbone.
            BackboneError: the backbone cannot be loaded.
        """
        node = cfg.TRAINER.CASPL
        precision = choose(node.PREC, device)
        student = load_clip(cfg.MODEL.BACKBONE.NAME)
        config.check_image_size(cfg, image_size(student))
        model = build_student(
            student,
            names,
            node.N_CTX_TEXT,
            node.N_CTX_VISION,
            node.DEPTH_TEXT,
            node.DEPTH_VISION,
            node.CTX_INIT,
            node.TEXT_ORDER,
            node.HOST_WORDS,
        )
        cast_clip(model.clip, precision.weights)
        return model.to(device), precision

    def build_model(self) -> None:
        """Build student and teacher: here the configuration ends."""
        cfg, node = self.cfg, self.cfg.TRAINER.CASPL
        names = self.dm.dataset.classnames
        self.template = node.TEACHER.TEMPLATE or template_of(cfg.DATASET.NAME)
        logger.info("Teacher %s with the template %r", node.TEACHER.BACKBONE, self.template)
        self.temperature = node.TEMPERATURE
        self.model, precision = self.build_classifier(cfg, names, self.device)
        self.teacher = load_teacher(node.TEACHER.BACKBONE, names, self.template, precision).to(self.device)
        self.view = teacher_view(cfg, self.teacher).to(self.device)
        self.cache: TeacherCache | None = None
        self.register_learner("CasPL", self.model.boosting, precision)

    def compute_loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """The distillation loss of a batch's images."""
        image = batch["img"].to(self.device)
        with torch.no_grad():
            teacher = self.teacher.logits(self.teacher_features(batch["index"], image))
        student = self.model(image)
        agree = (student.argmax(dim=1) == teacher.argmax(dim=1)).float().mean() * 100
        return distillation_loss(student, teacher, self.temperature), {"agreement": agree}

    def teacher_features(self, index: Tensor, image: Tensor) -> Tensor:
        """The teacher's normalised features (B, E) of a batch, from the cache where there is one."""

        def compute():
            return self.teacher.image_features(self.view(image))

        if self.cache is None:
            return compute()
        return self.cache.features(index, self.train_loader_x.dataset.view, compute).to(self.device)

    def before_train(self) -> None:
        """Dassl's hook: refuse to train on other classes than `TRAINER.CASPL.CLASSES` says, and open the cache."""
        wanted = self.cfg.TRAINER.CASPL.CLASSES
        if self.classes != wanted:
            raise config.ConfigError(
                f"DATASET.SUBSAMPLE_CLASSES is {self.classes!r}, but phase 1 trains on TRAINER.CASPL.CLASSES, which is "
                f"{wanted!r}: set the latter, and leave the former at 'all'"
            )
        if self.cfg.TRAINER.CASPL.TEACHER.CACHE:
            self.cache = self.open_cache()
        super().before_train()

    def open_cache(self) -> TeacherCache:
        """The cache of what the teacher will see in this run."""
        cfg, node = self.cfg, self.cfg.TRAINER.CASPL.TEACHER
        paths = [item.impath for item in self.train_loader_x.dataset.data_source]
        settings = {
            "teacher": node.BACKBONE,
            "teacher_weights": self.teacher.fingerprint(),
            "view": self.view.settings(),
            "dataset": cfg.DATASET.NAME,
            "image_list": described_images(paths, cfg.DATASET.ROOT),
            "input": cfg.INPUT,
            "seed": cfg.SEED,
            "precision": self.precision.name,
            "computed_by": [torch.__version__, torchvision.__version__, self.device.type],
        }
        with torch.no_grad(), self.precision.context(self.device):
            size = self.teacher.size
            width = self.teacher.image_features(torch.zeros(1, 3, size, size, device=self.device)).shape[1]
        return TeacherCache(node.CACHE, settings, len(paths), node.VIEWS or self.max_epoch, width)

    def after_train(self) -> None:
        """Dassl's hook; the boosting-prompt file comes last, when all else is done: whoever meets it may use it."""
        super().after_train()
        path = Path(self.output_dir) / FILE_NAME
        parallel.on_main(lambda: save_boosting(path, self.model.boosting, self.info()))
        logger.info("Boosting prompt written to %s", path)

    def info(self) -> BoostingInfo:
        """What the file shall say about the prompt."""
        cfg, node, clip_model = self.cfg, self.cfg.TRAINER.CASPL, self.model.clip
        (seen,) = self.data_seen()
        return BoostingInfo(
            student=cfg.MODEL.BACKBONE.NAME,
            student_weights=clip_model.fingerprint,
            teacher=node.TEACHER.BACKBONE,
            text_width=clip_model.ln_final.weight.shape[0],
            vision_width=clip_model.visual.class_embedding.shape[0],
            text_layers=len(clip_model.transformer.resblocks),
            vision_layers=len(clip_model.visual.transformer.resblocks),
            order=node.TEXT_ORDER,
            temperature=self.temperature,
            template=self.template,
            host_words=node.HOST_WORDS,
            dataset=cfg.DATASET.NAME,
            class_names=list(self.dm.dataset.classnames),
            classes=self.classes,
            images=seen["images"],
            labels=seen["labels"],
            epochs=self.max_epoch,
            seed=cfg.SEED,
            dtype=str(self.precision.prompts).removeprefix("torch."),
        )
