"""The base class of hosts. `README.md` in the parent folder shows how to add one."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from dassl.metrics import compute_accuracy
from torch import Tensor
from yacs.config import CfgNode

from .. import config
from ..backbones import load_clip
from ..engine import PromptedCLIP, clip_sizes
from ..engine.blocks import StockModule
from ..engine.precision import Precision, cast_clip, choose
from ..training.trainer import PromptTrainer

logger = logging.getLogger(__name__)


class HostTrainer(PromptTrainer):
    """The Dassl trainer of a host whose model is a `PromptedCLIP`.

    A subclass sets the attributes and implements `make_model`.

    Attributes:
        node: name of its node below `TRAINER`.
        defaults: the node's keys with the defaults of the method's own repository.
        learner_name: name of the folder of its checkpoints, as in the method's own repository.
        depths: {key of the node: "text", "vision" or "both"} of the keys that are depths of prompts.
        reads_dataset: whether `make_model` gets the dataset's registry name, as the option "dataset".
        tokens: {key of the node: "text" or "vision"} of the keys that are numbers of prompt tokens.
    """

    node: ClassVar[str]
    defaults: ClassVar[dict[str, Any]]
    learner_name: ClassVar[str]
    depths: ClassVar[Mapping[str, str]] = {}
    tokens: ClassVar[Mapping[str, str]] = {"N_CTX": "text"}
    reads_dataset: ClassVar[bool] = False

    @classmethod
    def make_model(cls, clip_model: StockModule, names: Sequence[str], options: dict[str, Any]) -> PromptedCLIP:
        """Build the model.

        Args:
            clip_model: a frozen stock CLIP in float32.
            names: the class names.
            options: the node's keys in lower case with their values.
        """
        raise NotImplementedError

    @classmethod
    def prepare_training(cls, model: PromptedCLIP, names: Sequence[str], cfg: CfgNode) -> None:
        """Compute what only the loss needs, in float32; nothing by default.

        Args:
            model: the model, on the CPU.
            names: the class names.
            cfg: the whole configuration.
        """

    @classmethod
    def build_classifier(
        cls, cfg: CfgNode, names: Sequence[str], device: torch.device, training: bool = False
    ) -> tuple[PromptedCLIP, Precision]:
        """Build the model that a configuration describes, without any data.

        Args:
            cfg: the whole configuration; it is not read below this level.
            names: the class names.
            device: the device of the model.
            training: also prepare what only the loss needs.

        Returns:
            The model, and the precision that its weights have.

        Raises:
            ConfigError: a value does not fit the backbone.
            BackboneError: the backbone cannot be loaded.
        """
        options = {key.lower(): value for key, value in cfg.TRAINER[cls.node].items()}
        precision = choose(options.pop("prec"), device)
        if cls.reads_dataset:
            options["dataset"] = cfg.DATASET.NAME
        clip_model = load_clip(cfg.MODEL.BACKBONE.NAME)
        config.check_backbone(cfg, clip_sizes(clip_model), cls._keys(cls.depths), cls._keys(cls.tokens))
        model = cls.make_model(clip_model, names, options)
        if training:
            cls.prepare_training(model, names, cfg)
        cast_clip(model.clip, precision.weights)
        return model.to(device), precision

    @classmethod
    def _keys(cls, towers: Mapping[str, str]) -> dict[str, str]:
        return {f"TRAINER.{cls.node}.{key}": tower for key, tower in towers.items() if key in cls.defaults}

    def check_cfg(self, cfg: CfgNode) -> None:
        """Check the node's values before anything is built.

        Raises:
            ConfigError: the precision is unknown.
        """
        node = cfg.TRAINER[self.node]
        config.check_choice(f"TRAINER.{self.node}.PREC", node.PREC, config.PRECISIONS)

    def build_model(self) -> None:
        """Build the model and register its learner."""
        self.model, precision = self.build_classifier(self.cfg, self.dm.dataset.classnames, self.device, training=True)
        self.register_learner(self.learner_name, self.model.prompt_learner, precision)

    def compute_loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the model's loss terms, and the accuracy with the terms, if there are several."""
        image, label = self.parse_batch_train(batch)
        terms, logits = self.model.loss_terms(image, label)
        figures = {"acc": compute_accuracy(logits.detach(), label)[0]}
        return sum(terms.values()), figures | (terms if len(terms) > 1 else {})  # type: ignore[return-value]


def words_of(ctx_init: str) -> str:
    """Return the words of a node's `CTX_INIT`, in which underscores separate words too."""
    return ctx_init.replace("_", " ")


def warn_if_unused(trainer: HostTrainer, cfg: CfgNode) -> None:
    """Log a warning for the keys that `CTX_INIT` overrides: N_CTX (its words count) and CSC (its words are shared)."""
    node = cfg.TRAINER[trainer.node]
    words = words_of(node.CTX_INIT)
    if not words:
        return
    count = len(words.split(" "))
    if node.N_CTX not in (count, trainer.defaults["N_CTX"]):
        logger.warning(
            "TRAINER.%s.N_CTX %d is not used: CTX_INIT %r sets %d tokens", trainer.node, node.N_CTX, words, count
        )
    if node.get("CSC", False):
        logger.warning("TRAINER.%s.CSC is not used: all classes share CTX_INIT %r", trainer.node, words)
