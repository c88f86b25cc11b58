"""The Dassl trainer of a host; its model is an `engine.PromptedCLIP`. `README.md` in the folder above shows how to add one."""

from collections.abc import Sequence

from dassl.metrics import compute_accuracy
from torch import Tensor, nn

from .. import config
from ..backbones import image_size, load_clip
from ..engine import PromptedCLIP
from ..engine.precision import cast_clip, choose
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

    def make_model(self, clip_model: nn.Module, names: Sequence[str], options: dict) -> PromptedCLIP:
        """The model for these class names; `options` are the node's keys in lower case."""
        raise NotImplementedError

    def check_cfg(self, cfg) -> None:
        """Dassl's hook: check the configuration before anything is built."""
        config.check_choice(f"TRAINER.{self.node}.PREC", cfg.TRAINER[self.node].PREC, config.PRECISIONS)

    def build_model(self) -> None:
        """Dassl's hook: here the configuration ends."""
        options = {key.lower(): value for key, value in self.cfg.TRAINER[self.node].items()}
        precision = choose(options.pop("prec"), self.device)
        clip_model = load_clip(self.cfg.MODEL.BACKBONE.NAME)
        config.check_image_size(self.cfg, image_size(clip_model))
        self.model = self.make_model(clip_model, self.dm.dataset.classnames, options)
        cast_clip(self.model.clip, precision.weights)
        self.model.to(self.device)
        self.register_learner(self.learner_name, self.model.prompt_learner, precision)

    def compute_loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the model's loss terms; the terms (where there are several) and the accuracy beside it."""
        image, label = self.parse_batch_train(batch)
        terms, logits = self.model.loss_terms(image, label)
        figures = {"acc": compute_accuracy(logits.detach(), label)[0]}
        return sum(terms.values()), figures | (terms if len(terms) > 1 else {})
