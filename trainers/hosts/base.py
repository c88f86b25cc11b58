"""The Dassl trainer of a host; its model is an `engine.PromptedCLIP`. `README.md` in the folder above shows how to add one."""

from collections.abc import Sequence

import torch
from dassl.metrics import compute_accuracy
from torch import Tensor, nn
from yacs.config import CfgNode

from .. import config
from ..backbones import image_size, load_clip
from ..engine import PromptedCLIP
from ..engine.precision import Precision, cast_clip, choose
from ..training.trainer import PromptTrainer


class HostTrainer(PromptTrainer):
    """A Dassl trainer for a host. A subclass sets the attributes below and implements `make_model`.

    Attributes:
        node: its node below `TRAINER`; defaults: the node's keys, as in the method's own repository.
        learner_name: the name that the learner is saved under, likewise.
    """

    node: str
    defaults: dict
    learner_name: str

    @classmethod
    def make_model(cls, clip_model: nn.Module, names: Sequence[str], options: dict) -> PromptedCLIP:
        """Build the model for these class names; `options` are the node's keys in lower case."""
        raise NotImplementedError

    @classmethod
    def prepare_training(cls, model: PromptedCLIP, names: Sequence[str]) -> None:
        """Compute what only the loss needs, in float32; nothing by default."""

    @classmethod
    def build_classifier(
        cls, cfg: CfgNode, names: Sequence[str], device: torch.device, training: bool = False
    ) -> tuple[PromptedCLIP, Precision]:
        """Build the model that a configuration describes, without any data: here the configuration ends.

        Args:
            cfg: the whole configuration.
            names: the class names.
            device: where the model is placed.
            training: also prepare what only the loss needs.

        Returns:
            The model, with CLIP's weights in the precision that is returned with it.

        Raises:
            ConfigError: a value does not fit the backbone.
            BackboneError: the backbone cannot be loaded.
        """
        options = {key.lower(): value for key, value in cfg.TRAINER[cls.node].items()}
        precision = choose(options.pop("prec"), device)
        clip_model = load_clip(cfg.MODEL.BACKBONE.NAME)
        config.check_image_size(cfg, image_size(clip_model))
        model = cls.make_model(clip_model, names, options)
        if training:
            cls.prepare_training(model, names)
        cast_clip(model.clip, precision.weights)
        return model.to(device), precision

    def check_cfg(self, cfg) -> None:
        """Dassl's hook: check the configuration before anything is built."""
        config.check_choice(f"TRAINER.{self.node}.PREC", cfg.TRAINER[self.node].PREC, config.PRECISIONS)

    def build_model(self) -> None:
        """Build the model and register its learner."""
        self.model, precision = self.build_classifier(self.cfg, self.dm.dataset.classnames, self.device, training=True)
        self.register_learner(self.learner_name, self.model.prompt_learner, precision)

    def compute_loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the model's loss terms; the terms (where there are several) and the accuracy beside it."""
        image, label = self.parse_batch_train(batch)
        terms, logits = self.model.loss_terms(image, label)
        figures = {"acc": compute_accuracy(logits.detach(), label)[0]}
        return sum(terms.values()), figures | (terms if len(terms) > 1 else {})
