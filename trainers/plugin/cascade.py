"""Phase 2: cascade any registered host with a boosting prompt, as `CasPL_<Host>` or under its own name.

Source: arXiv 2409.17805, section 3.3.
"""

import logging
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from dassl.engine import TRAINER_REGISTRY, SimpleTrainer
from torch import nn
from yacs.config import CfgNode

from .. import config
from ..engine import PromptGroup
from ..method.prompt_file import (
    FILE_NAME,
    CheckpointError,
    boosting_item,
    check_fits,
    check_towers,
    find_boosting,
    load_boosting,
    same_prompt,
)
from ..storage.atomic import replacing
from ..training import parallel, provenance
from .building import Built, build_prompted

logger = logging.getLogger(__name__)

HOSTS = ("CoOp", "CoCoOp", "MaPLe", "PromptSRC")  # the paper's; `wrap` takes any other


if TYPE_CHECKING:
    from dassl.engine import TrainerX as Base
else:
    Base = object


class Cascaded(Base):
    """Mixin that cascades a host's trainer with a boosting prompt.

    It comes first in a class's bases.

    The host's model, loss, optimiser and schedule stay unchanged. The boosting prompt is frozen and in eval mode, unless
    `TRAINER.CASPL.JOINT` asks for the ablation in which a new one of the same size is learned with the host's prompts.

    Attributes:
        host: the host's name, which is `cfg.TRAINER.NAME` for all of its code: hosts branch on it.
    """

    host: str

    def __init__(self, cfg):
        super().__init__(named(cfg, self.host))

    def check_cfg(self, cfg: CfgNode) -> None:
        """Check both configurations and find the boosting prompt, before anything is built."""
        config.check_cfg(cfg)
        self.boosting_file = find_boosting(cfg.TRAINER.CASPL.CHECKPOINT)
        super().check_cfg(cfg)

    def build_model(self) -> None:
        """Build the host, then cascade it."""
        group, info = load_boosting(self.boosting_file)
        self.boosting, self.boosting_info = group, info
        order, joint = self.cfg.TRAINER.CASPL.TEXT_ORDER, self.cfg.TRAINER.CASPL.JOINT
        names = [name for _, name in sorted(self.lab2cname.items())]

        def check(built: Built) -> None:
            check_towers(self.boosting_file, group, info, built)

        size = tuple(self.cfg.INPUT.SIZE)
        built = build_prompted(self, super().build_model, group, order, size, names, check)
        self.injection = built.injection
        if built.injection is None:  # one of our own hosts
            check_fits(self.boosting_file, group, info, self.model.clip.visual, self.model.clip)
            if not joint:
                self.model.cascade(group.to(self.device), order)
        elif joint:
            raise config.ConfigError(
                f"TRAINER.CASPL.JOINT: True; expected False for {self.host}, which is not one of this package's hosts"
            )
        logger.info(
            "%s %s (%s): %s text x %s, %s vision x %s tokens, %s",
            "Learning a boosting prompt jointly, of the size of" if joint else "Cascaded with",
            self.boosting_file,
            info.dataset or "unknown dataset",
            *group.text.shape[:2],
            *group.vision.shape[:2],
            order,
        )

    def register_learner(self, name: str, learner: nn.Module, precision: Any) -> None:
        """Let the learner of one of this package's hosts have the joint boosting prompt, if there is one."""
        if self.cfg.TRAINER.CASPL.JOINT:
            drawn = (torch.randn(stack.shape) * 0.02 for stack in (self.boosting.text, self.boosting.vision))
            self.model.join(PromptGroup(*drawn), self.cfg.TRAINER.CASPL.TEXT_ORDER)
        super().register_learner(name, learner, precision)  # type: ignore[misc]

    def before_train(self) -> None:
        """Keep a copy of the boosting prompt in the run's folder, which can then be evaluated without it."""
        kept = Path(self.output_dir) / FILE_NAME
        self._check_same(kept)
        parallel.on_main(lambda: self._keep_boosting(kept))
        super().before_train()
        parallel.on_main(
            lambda: provenance.keep(self.output_dir, self.data_seen())
        )  # a foreign host's trainer does not

    def _keep_boosting(self, kept: Path) -> None:
        if not kept.is_file():
            with replacing(kept) as aside:
                shutil.copyfile(self.boosting_file, aside)

    def data_seen(self) -> list[dict]:
        """Return the provenance of both phases' data.

        Of a joint training, that of the host's.
        """
        of_host = getattr(super(), "data_seen", lambda: [provenance.training_item(self)])()
        return of_host if self.cfg.TRAINER.CASPL.JOINT else [boosting_item(self.boosting_info), *of_host]

    def load_model(self, directory: str, *args, **kwargs) -> None:
        """Load the host's checkpoint.

        Raises:
            CheckpointError: the run was trained with another boosting prompt.
        """
        if directory:
            self._check_same(Path(directory) / FILE_NAME)
        super().load_model(directory, *args, **kwargs)

    def _check_same(self, kept: Path) -> None:
        """Check that the run's copy of the boosting prompt and the loaded one are from the same phase 1.

        Raises:
            CheckpointError: they are not.
        """
        if kept.is_file() and not same_prompt(self.boosting_file, kept):
            raise CheckpointError(
                f"the run in {kept.parent} was trained with the boosting prompt {kept}, but TRAINER.CASPL.CHECKPOINT is "
                f"{self.boosting_file}, which differs: give the run's folder as TRAINER.CASPL.CHECKPOINT to evaluate it, or "
                "another --output-dir to train from scratch"
            )


def wrap(host: str) -> None:
    """Register `CasPL_<host>` (and `CasPL-<host>`) with Dassl.

    The host is looked up when the trainer is built, so it may be registered later, and a toolbox's own class wins over
    this package's. Wrapping a host twice is a no-op.

    Args:
        host: the name that the host is (or will be) registered under.
    """
    for name in (f"CasPL_{host}", f"CasPL-{host}"):
        if name in TRAINER_REGISTRY.registered_names():
            continue

        def build(cfg):
            return cascaded(host)(cfg)

        build.__name__ = name
        build.__doc__ = f"{host}, cascaded with a boosting prompt."
        TRAINER_REGISTRY.register(build)


def cascaded(host: str) -> type:
    """Return the trainer class of a registered host, cascaded.

    Raises:
        ConfigError: no host of this name is registered.
    """
    known = TRAINER_REGISTRY.registered_names()
    if host not in known:
        hosts = [name for name in known if not name.startswith("CasPL")]
        raise config.ConfigError(
            f"CasPL_{host} wraps the trainer {host}, which is not registered: import the module that defines it in train.py "
            f"(registered are {', '.join(hosts)})"
        )
    return type(f"CasPL_{host}", (Cascaded, TRAINER_REGISTRY.get(host)), {"host": host})


def named(cfg: CfgNode, host: str) -> CfgNode:
    """Return the configuration with a host's name as TRAINER.NAME."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TRAINER.NAME = host
    cfg.freeze()
    return cfg


def cascade_under_own_name(base: type) -> None:
    """Let a toolbox's trainers cascade under their own `--trainer` name.

    They do if TRAINER.CASPL.CHECKPOINT is set.

    Args:
        base: Dassl's `SimpleTrainer`, which all trainers derive from.
    """

    def create(cls, cfg=None, *args, **kwargs):
        own = cfg is not None and cascaded_name(cfg) != cfg.TRAINER.NAME
        if own and TRAINER_REGISTRY.get(cfg.TRAINER.NAME) is cls:
            logger.info("%s with TRAINER.CASPL.CHECKPOINT: cascaded, as CasPL_%s", cls.__name__, cls.__name__)
            return object.__new__(cascaded(cfg.TRAINER.NAME))
        trainer = object.__new__(cls)
        if not issubclass(cls, Cascaded) and hasattr(cls, "load_model"):
            trainer.load_model = partial(_load_alone, trainer)
        return trainer

    base.__new__ = staticmethod(create)  # type: ignore[method-assign, assignment]


def _load_alone(trainer, directory: str = "", *args, **kwargs):
    """Load a host's checkpoint, unless its run was cascaded.

    Raises:
        ConfigError: the run's folder has a boosting prompt, which this trainer was built without.
    """
    kept = Path(directory or "") / FILE_NAME
    if directory and kept.is_file() and not trainer.cfg.TRAINER.NAME.startswith("CasPL"):
        raise config.ConfigError(
            f"{directory}: this run was trained with the boosting prompt {kept}; expected TRAINER.CASPL.CHECKPOINT for its "
            f"evaluation. Set TRAINER.CASPL.CHECKPOINT {directory}"
        )
    return type(trainer).load_model(trainer, directory, *args, **kwargs)


def cascaded_name(cfg: CfgNode) -> str:
    """Return CasPL_<Host> for a host's own name with TRAINER.CASPL.CHECKPOINT set, else TRAINER.NAME.

    Zero-shot trainers learn nothing that a boosting prompt could support: they always run alone.
    """
    name = cfg.TRAINER.NAME
    alone = name.lower().startswith(("caspl", "zeroshot")) or name not in TRAINER_REGISTRY.registered_names()
    asked = "CASPL" in cfg.TRAINER and cfg.TRAINER.CASPL.CHECKPOINT
    return f"CasPL_{name}" if asked and not alone else name


for _host in HOSTS:
    wrap(_host)
cascade_under_own_name(SimpleTrainer)
