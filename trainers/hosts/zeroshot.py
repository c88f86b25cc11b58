"""Zero-shot CLIP with the dataset's template (arXiv 2103.00020; templates as in github.com/KaiyangZhou/CoOp)."""

import logging

from dassl.engine import TRAINER_REGISTRY

from .. import config
from ..backbones import image_size, load_clip, tokenizer
from ..engine import Learner, PromptedCLIP, worded_texts
from ..engine.precision import cast_clip, choose
from ..method.templates import template_of
from ..training.trainer import PromptTrainer

logger = logging.getLogger(__name__)


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(PromptTrainer):
    """CLIP as it is; `train()` only evaluates."""

    def build_model(self) -> None:
        """Dassl's hook. Computed in float32 on a CPU and in float16 on a GPU, as OpenAI's loader does."""
        self.precision = choose("fp32" if self.device.type == "cpu" else "fp16", self.device)
        clip_model = load_clip(self.cfg.MODEL.BACKBONE.NAME)
        config.check_image_size(self.cfg, image_size(clip_model))
        template = template_of(self.cfg.DATASET.NAME)
        logger.info("Template: %r", template)
        texts = worded_texts(tokenizer().encode, self.dm.dataset.classnames, template)
        cast_clip(clip_model, self.precision.weights)
        self.model = PromptedCLIP(clip_model, Learner(), texts).to(self.device).eval()

    def train(self) -> None:
        """There is nothing to train: evaluate."""
        self.test()
