"""Zero-shot CLIP with the dataset's template (arXiv 2103.00020; templates of github.com/KaiyangZhou/CoOp)."""

import logging
from collections.abc import Sequence

import torch
from dassl.engine import TRAINER_REGISTRY
from yacs.config import CfgNode

from .. import config
from ..backbones import load_clip, source_of, tokenizer_of
from ..engine import PromptedCLIP, clip_sizes
from ..engine.precision import Precision, cast_clip, choose
from ..method.templates import template_for
from ..method.zero_shot import zero_shot_model
from ..training.trainer import PromptTrainer

logger = logging.getLogger(__name__)

config.declare("ZeroshotCLIP", learns=False)


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(PromptTrainer):
    """CLIP without learned parameters; `train()` only evaluates."""

    @classmethod
    def build_classifier(
        cls, cfg: CfgNode, names: Sequence[str], device: torch.device
    ) -> tuple[PromptedCLIP, Precision]:
        """Build the model that a configuration describes, without any data.

        It computes in float32 on a CPU and in float16 on a GPU, as OpenAI's loader does.

        Args:
            cfg: the whole configuration.
            names: the class names.
            device: the device of the model.

        Returns:
            The model, and the precision that its weights have.

        Raises:
            ConfigError: the image size does not fit the backbone.
            BackboneError: the backbone cannot be loaded.
        """
        precision = choose("fp32" if device.type == "cpu" else "fp16", device)
        clip_model = load_clip(cfg.MODEL.BACKBONE.NAME)
        config.check_backbone(cfg, clip_sizes(clip_model), source_of(cfg.MODEL.BACKBONE.NAME))
        template = template_for(cfg)
        logger.info("Template: %r", template)
        model = zero_shot_model(clip_model, tokenizer_of(clip_model).encode, names, template)
        cast_clip(clip_model, precision.weights)
        return model.to(device).eval(), precision

    def build_model(self) -> None:
        """Build the model; there is nothing to register."""
        self.model, self.precision = self.build_classifier(self.cfg, self.dm.dataset.classnames, self.device)

    def train(self) -> None:
        """Evaluate, since there is nothing to train."""
        self.test()
