"""The base class of hosts. `README.md` in the parent folder shows how to add one."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from dassl.metrics import compute_accuracy
from torch import Tensor
from yacs.config import CfgNode

from .. import config
from ..backbones import load_clip, source_of
from ..config import Field, OnlyWith, precisions
from ..engine import Encoded, PromptedCLIP, clip_sizes
from ..engine.blocks import StockModule
from ..engine.precision import Precision, cast_clip, choose
from ..method.feature_cache import on_device
from ..training.features import TrainingFeatures, training_cache
from ..training.trainer import PromptTrainer

PREC = Field("PREC", "fp16", "precision", choices=precisions)


def context_fields(node: str, tokens: int = 16, words: str = "") -> tuple[Field, Field]:
    """Return the keys of a context of N_CTX tokens, or of CTX_INIT's words.

    CoOp and CoCoOp have them.

    Args:
        node: the host's node.
        tokens: default of N_CTX.
        words: default of CTX_INIT.
    """

    def unread(cfg: CfgNode) -> str:
        words = cfg.TRAINER[node].CTX_INIT
        given = len(words_of(words).split(" ")) if words else cfg.TRAINER[node].N_CTX
        return "" if given == cfg.TRAINER[node].N_CTX else f"TRAINER.{node}.CTX_INIT {words!r} has {given} words"

    return (
        Field(
            "N_CTX",
            tokens,
            "context tokens; with CTX_INIT: as many as it has words",
            least=1,
            most=74,
            limits=("text_positions",),
            unread=unread,
        ),
        Field("CTX_INIT", words, "words that the context starts from; empty: N(0, 0.02)"),
    )


def class_specific(node: str) -> Field:
    """Return the key that asks for a context per class, which CTX_INIT overrides."""
    without_words = OnlyWith(f"TRAINER.{node}.CTX_INIT", ("",))
    return Field("CSC", False, "a separate context for each class", unread=without_words)


def initial_words(node: str, tokens: str) -> Field:
    """Return the key of the words that the first layer starts from.

    They have at most 4 tokens (MaPLe, PromptSRC).

    Args:
        tokens: the node's key with the number of tokens.
    """

    def unread(cfg: CfgNode) -> str:
        n = cfg.TRAINER[node][tokens]
        return f"TRAINER.{node}.{tokens} is {n}, and more than 4 tokens start at random" if n > 4 else ""

    return Field("CTX_INIT", "a photo of a", "words that the first block's text tokens start from", unread=unread)


class HostTrainer(PromptTrainer):
    """The Dassl trainer of a host whose model is a `PromptedCLIP`.

    A subclass sets the attributes and implements `make_model`.

    Attributes:
        node: name of its node below `TRAINER`.
        fields: the node's keys, with the names and defaults of the method's own repository.
        learner_name: name of the folder of its checkpoints, as in the method's own repository.
        reads_dataset: whether `make_model` gets the dataset's registry name, as the option "dataset".
        evaluated_key: the node's key that names the evaluated run's folder; empty: none does.
        features: the cache of the training images' features; None: they are computed in each step.
    """

    node: ClassVar[str]
    fields: ClassVar[tuple[Field, ...]]
    learner_name: ClassVar[str]
    reads_dataset: ClassVar[bool] = False
    evaluated_key: ClassVar[str] = ""
    features: TrainingFeatures | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "node"):
            config.declare(cls.__name__, cls.node, cls.fields)

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
    def options_of(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the options of `make_model` in a configuration."""
        options = {key.lower(): value for key, value in cfg.TRAINER[cls.node].items() if key != "PREC"}
        return options | ({"dataset": cfg.DATASET.NAME} if cls.reads_dataset else {})

    @classmethod
    def remake(cls, model: PromptedCLIP, names: Sequence[str], cfg: CfgNode) -> PromptedCLIP:
        """Build the model again for other classes, on the same CLIP and with initial prompts.

        Args:
            model: the model.
            names: the other class names.
            cfg: the whole configuration.
        """
        return cls.make_model(model.clip, names, cls.options_of(cfg))

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
        precision = choose(cfg.TRAINER[cls.node].PREC, device)
        clip_model = load_clip(cfg.MODEL.BACKBONE.NAME)
        config.check_backbone(cfg, clip_sizes(clip_model), source_of(cfg.MODEL.BACKBONE.NAME))
        model = cls.make_model(clip_model, names, cls.options_of(cfg))
        if training:
            cls.prepare_training(model, names, cfg)
        cast_clip(model.clip, precision.weights)
        return model.to(device), precision

    def check_cfg(self, cfg: CfgNode) -> None:
        """Check the node's values before anything is built.

        Raises:
            ConfigError: names each key, its value and what is expected.
        """
        own = [config.FIELDS[field.below_node(self.node).name] for field in self.fields]
        if found := config.out_of_range(cfg, own) or self.node_problems(cfg, training=False):
            raise config.ConfigError("; ".join(found))

    @classmethod
    def node_problems(cls, cfg: CfgNode, training: bool = True) -> list[str]:
        """Return what is wrong with values of the node that must fit each other.

        Each is in its range; nothing is wrong by default.

        Args:
            cfg: the whole configuration.
            training: whether it is for training, not for an evaluation.
        """
        return []

    def build_model(self) -> None:
        """Build the model and register its learner."""
        self.model, precision = self.build_classifier(self.cfg, self.dm.dataset.classnames, self.device, training=True)
        self.register_learner(self.learner_name, self.model.prompt_learner, precision)

    def build_data_loader(self) -> None:
        """Let the training images have `TRAIN.VIEWS` augmentations."""
        super().build_data_loader()
        self.train_loader_x.dataset.views = self.cfg.TRAIN.VIEWS

    def before_train(self) -> None:
        """Open the cache of the training images' features, if their number of augmentations is fixed."""
        super().before_train()
        if self.cfg.TRAIN.VIEWS and self.model.has_text_prompts_only():
            self.features = training_cache(self, self.model.vision_stacks(), self.cfg.TRAIN.VIEWS)

    def on_device(self, batch: dict) -> dict:
        """Add the images' features from the cache, if there is one, as "features"."""
        batch = super().on_device(batch)
        if self.features is None:
            return batch
        return {**batch, "features": self.cached(self.features, batch, self.model.encode)}

    def cached(self, cache: TrainingFeatures, batch: dict, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Return features (B, E) of a batch's images from a cache.

        Args:
            cache: the cache.
            batch: the batch, its images on the device.
            encode: computes the features (B, E) of images (B, 3, R, R).
        """

        def compute() -> Tensor:
            with torch.no_grad(), self.precision.context(self.device):
                return encode(batch["img"])

        return on_device(cache.features(batch["index"], self.train_loader_x.dataset.view, compute), self.device)

    def loss_terms(self, batch: dict) -> tuple[dict[str, Tensor], Tensor]:
        """Return the model's loss terms and logits of a batch on the device."""
        image = Encoded(batch["features"]) if "features" in batch else batch["img"]
        return self.model.loss_terms(image, batch["label"])

    def compute_loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the model's loss terms, and the accuracy.

        The terms follow, if there are several.
        """
        batch = super().on_device(batch)
        label = batch["label"]
        terms, logits = self.loss_terms(batch)
        figures = {"acc": compute_accuracy(logits.detach(), label)[0]}
        return sum(terms.values()), figures | (terms if len(terms) > 1 else {})  # type: ignore[return-value]


def words_of(ctx_init: str) -> str:
    """Return the words of a node's `CTX_INIT`, in which underscores separate words too."""
    return ctx_init.replace("_", " ")
