"""Phase 1: the trainer `CasPL`, which distils a boosting prompt from a larger CLIP on unlabelled images
(arXiv 2409.17805, section 3.2).
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor
from yacs.config import CfgNode

from .. import config
from ..backbones import load_clip, source_of, tokenizer_of
from ..engine import (
    ClassText,
    Learner,
    PromptedCLIP,
    PromptGroup,
    clip_sizes,
    host_texts,
    initial_context,
    special_tokens,
    words_to_start_from,
)
from ..engine.blocks import StockModule
from ..engine.precision import Precision, cast_clip, choose
from ..training import parallel
from ..training.provenance import training_item
from ..training.trainer import PromptTrainer
from . import unlabelled
from .identity import (
    TEACHERS,
    backbone_fingerprint,
    boosting_identity,
    data_fingerprint,
    image_settings,
    repeated_teacher,
    weights_fingerprint,
)
from .losses import LOSSES
from .prompt_file import FILE_NAME, BoostingInfo, save_boosting
from .taught import Taught, teacher_transforms
from .teacher_cache import TeacherCache
from .teachers import load_teachers, teacher_names
from .templates import described, template_for

logger = logging.getLogger(__name__)


def build_student(
    clip_model: StockModule,
    names: Sequence[str],
    n_ctx_text: int,
    n_ctx_vision: int,
    depth_text: int,
    depth_vision: int,
    ctx_init: str = "",
    order: str = "boosting_first",
    host_words: str = "",
) -> PromptedCLIP:
    """Build a CLIP with a boosting prompt to be learned and no other learned parameters.

    A tower with 0 tokens or a depth of 0 has no prompt.

    Args:
        clip_model: the student, a frozen stock CLIP.
        names: the class names.
        n_ctx_text: tokens in the text tower.
        n_ctx_vision: tokens in the vision tower.
        depth_text: number of text blocks with prompts.
        depth_vision: number of vision blocks with prompts.
        ctx_init: words that initialise the first text layer (4 tokens at most); the remaining words stay fixed.
        order: position of the text tokens relative to `host_words` (see `engine.symbols.arrange`).
        host_words: words in place of the host's context of phase 2 (the published code has none).

    Raises:
        ValueError: `ctx_init` has too few words, or a class name is too long for the text tower.
    """
    encode, sizes, (_, eot) = tokenizer_of(clip_model).encode, clip_sizes(clip_model), special_tokens(clip_model)
    n_ctx_text = n_ctx_text if depth_text else 0
    depth_text = depth_text if n_ctx_text else 0
    words = words_to_start_from(ctx_init, n_ctx_text)
    first = initial_context(clip_model, encode, n_ctx_text, words)
    text = torch.cat([first[None], torch.randn(max(depth_text - 1, 0), *first.shape, device=first.device) * 0.02])[
        :depth_text
    ]
    vision = torch.randn(depth_vision if n_ctx_vision else 0, n_ctx_vision, sizes.vision_width) * 0.02
    left_over = tuple(encode(words)[n_ctx_text:])
    head = tuple(encode(host_words))
    texts = [ClassText(t.name, head, (*left_over, *t.tail)) for t in host_texts(encode, names, 0, eot=eot)]
    student = PromptedCLIP(clip_model, Learner(), texts)
    student.cascade(PromptGroup(text, vision), order)
    return student


@TRAINER_REGISTRY.register()
class CasPL(Taught, PromptTrainer):
    """Train the boosting prompt and write it to `<OUTPUT_DIR>/boosting.safetensors`.

    Labels are never read.
    """

    reads_labels = False
    learned_file = ""  # it writes the boosting-prompt file instead
    model: Any  # a PromptedCLIP with a boosting prompt
    train_loader_x: Any

    def data_seen(self) -> list[dict]:
        """Return the provenance of phase 1."""
        added = len(self.added)
        item = training_item(self, "boosting")
        return [item | {"images": item["images"] - added, "added_images": added} if added else item]

    def check_cfg(self, cfg: CfgNode) -> None:
        """Check the configuration before anything is built.

        Raises:
            ConfigError: a value is out of its range, or the prompt would have no tokens.
        """
        config.check_cfg(cfg)
        if problem := config.boosting_tokens(cfg):
            raise config.ConfigError(problem)

    @classmethod
    def node_problems(cls, cfg: CfgNode, training: bool = True) -> list[str]:
        """Reject a teacher that `TEACHER.RUNS` has twice."""
        found = repeated_teacher(cfg) if training else None
        return [f"{TEACHERS[2]}: {found[0]} and {found[1]} are the same teacher; expected each once"] if found else []

    def build_data_loader(self) -> None:
        """Load the classes of `TRAINER.CASPL.CLASSES`, and add unlabelled images.

        Another subset is loaded if it is set.

        Raises:
            ConfigError: a folder of unlabelled images does not exist or has no images.
        """
        cfg = self.cfg.clone()
        if cfg.DATASET.SUBSAMPLE_CLASSES == "all":
            cfg.defrost()
            cfg.DATASET.SUBSAMPLE_CLASSES = cfg.TRAINER.CASPL.CLASSES
        self.classes = cfg.DATASET.SUBSAMPLE_CLASSES
        self.use_data(cfg)
        self.train_loader_x.dataset.views = cfg.TRAINER.CASPL.TEACHER.VIEWS
        images = self.train_loader_x.dataset.data_source
        images[:] = unlabelled.share(images, cfg.TRAINER.CASPL.SHARE, cfg.SEED)
        if (
            len(images) < cfg.DATALOADER.TRAIN_X.BATCH_SIZE
        ):  # a smaller batch is the only one, as in other small datasets
            batches = self.train_loader_x.batch_sampler
            getattr(batches, "batches", batches).drop_last = False
        self.added = unlabelled.list_images(cfg.TRAINER.CASPL.IMAGES)
        self.added_data = unlabelled.fingerprint(self.added, cfg.TRAINER.CASPL.IMAGES)
        if self.added:
            self.train_loader_x.dataset.data_source.extend(self.added)  # its sampler reads the length in each epoch
            logger.info("Added %d unlabelled images from %s", len(self.added), ", ".join(cfg.TRAINER.CASPL.IMAGES))

    @classmethod
    def build_classifier(
        cls, cfg: CfgNode, names: Sequence[str], device: torch.device
    ) -> tuple[PromptedCLIP, Precision]:
        """Build the student that a configuration describes.

        It has an initial boosting prompt and no data.

        Args:
            cfg: the whole configuration; it is not read below this level.
            names: the class names.
            device: the device of the model.

        Returns:
            The student, and the precision that its weights have.

        Raises:
            ConfigError: a value does not fit the backbone.
            BackboneError: the backbone cannot be loaded.
        """
        node = cfg.TRAINER.CASPL
        precision = choose(node.PREC, device)
        clip_model = load_clip(cfg.MODEL.BACKBONE.NAME)
        config.check_backbone(cfg, clip_sizes(clip_model), source_of(cfg.MODEL.BACKBONE.NAME))
        model = build_student(
            clip_model,
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
        """Build student and teacher."""
        cfg, node = self.cfg, self.cfg.TRAINER.CASPL
        names = self.dm.dataset.classnames
        self.template = node.TEACHER.TEMPLATE or template_for(cfg)
        self.teacher_names = teacher_names(node.TEACHER)
        logger.info("Teacher %s with the template %r", " and ".join(self.teacher_names), self.template)
        self.loss, self.temperature = LOSSES[node.LOSS], node.TEMPERATURE
        self.model, precision = self.build_classifier(cfg, names, self.device)
        teacher = load_teachers(self.teacher_names, node.TEACHER.MEAN, names, self.template, precision)
        self.teacher = teacher.to(self.device)
        self.transforms = teacher_transforms(cfg, self.teacher).to(self.device)
        self.register_learner("CasPL", self.model.boosting, precision)

    def compute_loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch's images, and the share of them on which student and teacher agree."""
        image = batch["img"].to(self.device)
        with torch.no_grad():
            teacher = self.teacher.logits(self.known_or_computed(batch))
        student = self.model(image)
        agree = (student.argmax(dim=1) == teacher.argmax(dim=1)).float().mean() * 100
        return self.loss(student, teacher, self.temperature), {"agreement": agree}

    def before_train(self) -> None:
        """Check the added images and open the teacher cache.

        Raises:
            ConfigError: the data has other classes than `TRAINER.CASPL.CLASSES`, or an added image is one of the dataset's.
            ImageError: an added file is not an image.
            CacheError: the cache cannot be written or is damaged.
        """
        wanted = self.cfg.TRAINER.CASPL.CLASSES
        if self.classes != wanted:
            raise config.ConfigError(
                f"DATASET.SUBSAMPLE_CLASSES: {self.classes!r}; expected 'all'. Phase 1 trains on TRAINER.CASPL.CLASSES, "
                f"which is {wanted!r}; set that key instead"
            )
        dataset = self.dm.dataset
        unlabelled.check_images(self.added, [*dataset.train_x, *(dataset.val or ()), *(dataset.test or ())])
        if self.cfg.TRAINER.CASPL.TEACHER.CACHE:
            self.caches = self.open_caches()
        super().before_train()

    def open_caches(self) -> list[TeacherCache]:
        """Return the caches of the teachers' features in this run.

        Raises:
            CacheError: one cannot be written or is damaged.
        """
        node = self.cfg.TRAINER.CASPL.TEACHER
        return self.caches_in(node.CACHE, self.teacher_names, node.VIEWS)

    def after_train(self) -> None:
        """Write the boosting-prompt file last: its existence marks a finished run."""
        super().after_train()
        path = Path(self.output_dir) / FILE_NAME
        parallel.on_main(lambda: save_boosting(path, self.model.boosting, self.info()))
        logger.info("Wrote the boosting prompt to %s", path)

    def info(self) -> BoostingInfo:
        """Return the metadata of the prompt file."""
        cfg, node, clip_model = self.cfg, self.cfg.TRAINER.CASPL, self.model.clip
        sizes = clip_sizes(clip_model)
        (seen,) = self.data_seen()
        return BoostingInfo(
            student=cfg.MODEL.BACKBONE.NAME,
            student_weights=clip_model.fingerprint,
            student_function=clip_model.described | {"images": image_settings(cfg)},
            teacher=" and ".join(self.teacher_names),
            teacher_weights=weights_fingerprint(*self.teacher.paths),
            text_width=sizes.text_width,
            vision_width=sizes.vision_width,
            text_layers=sizes.text_layers,
            vision_layers=sizes.vision_layers,
            order=node.TEXT_ORDER,
            temperature=self.temperature,
            template=described(self.template),
            host_words=node.HOST_WORDS,
            dataset=cfg.DATASET.NAME,
            class_names=list(self.dm.dataset.classnames),
            classes=self.classes,
            images=seen["images"],
            added_images=len(self.added),
            added_data=self.added_data,
            labels=seen["labels"],
            epochs=self.max_epoch,
            seed=cfg.SEED,
            dtype=str(self.precision.prompts).removeprefix("torch."),
            data=self.data_fingerprint(),
            identity=self.identity(),
        )

    def identity(self) -> str:
        """Return the digest of what determines the prompt: settings, data, teacher and student."""
        teacher = weights_fingerprint(*self.teacher.paths)
        student = backbone_fingerprint(self.cfg.MODEL.BACKBONE.NAME)
        return boosting_identity(self.cfg, self.data_fingerprint(), teacher, student, self.added_data)

    def data_fingerprint(self) -> str:
        """Return the fingerprint of the training data."""
        return data_fingerprint(self.dm.dataset, self.cfg.DATASET.ROOT)
