"""Learning-rate schedules, stepped once per epoch, after an optional warm-up."""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, StepLR
from yacs.config import CfgNode

from dassl.utils import check_availability

AVAI_SCHEDS = ["single_step", "multi_step", "cosine"]


class _WarmupScheduler(LRScheduler):
    """`warmup_epoch` epochs of warm-up, then `successor`, which starts from the full learning rate.

    The state is plain data: it contains the successor's state, not the successor.
    """

    def __init__(self, optimizer: Optimizer, successor: LRScheduler, warmup_epoch: int):
        self.successor = successor
        self.warmup_epoch = warmup_epoch
        super().__init__(optimizer)

    def warmup_lrs(self) -> list[Any]:
        """Return the learning rate of each parameter group in an epoch of the warm-up."""
        raise NotImplementedError

    def get_lr(self) -> Any:  # PyTorch 2.3 types it as a float
        """Return the learning rate of each parameter group."""
        if self.last_epoch >= self.warmup_epoch:
            return self.successor.get_last_lr()
        return self.warmup_lrs()

    def step(self, epoch: int | None = None) -> None:
        """Advance by one epoch."""
        if self.last_epoch >= self.warmup_epoch:
            self.successor.step(epoch)
            self._last_lr = self.successor.get_last_lr()
        else:
            super().step(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as numbers, lists and dictionaries."""
        return {**super().state_dict(), "successor": self.successor.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        own = dict(state_dict)
        self.successor.load_state_dict(own.pop("successor"))
        super().load_state_dict(own)


class ConstantWarmupScheduler(_WarmupScheduler):
    """Warm up with the learning rate `cons_lr` in all groups."""

    def __init__(self, optimizer: Optimizer, successor: LRScheduler, warmup_epoch: int, cons_lr: float):
        self.cons_lr = cons_lr
        super().__init__(optimizer, successor, warmup_epoch)

    def warmup_lrs(self) -> list[Any]:
        return [self.cons_lr for _ in self.base_lrs]


class LinearWarmupScheduler(_WarmupScheduler):
    """Warm up with `min_lr` in epoch 0 and with lr * epoch / warmup_epoch after it."""

    def __init__(self, optimizer: Optimizer, successor: LRScheduler, warmup_epoch: int, min_lr: float):
        self.min_lr = min_lr
        super().__init__(optimizer, successor, warmup_epoch)

    def warmup_lrs(self) -> list[Any]:
        if self.last_epoch == 0:
            return [self.min_lr for _ in self.base_lrs]
        return [lr * self.last_epoch / self.warmup_epoch for lr in self.base_lrs]


def build_lr_scheduler(optimizer: Optimizer, optim_cfg: CfgNode) -> LRScheduler:
    """Build the scheduler that `optim_cfg` (`cfg.OPTIM`) describes.

    Raises:
        ValueError: LR_SCHEDULER or WARMUP_TYPE is unknown.
        TypeError: STEPSIZE does not suit the scheduler.
    """
    scheduler = _build_main(optimizer, optim_cfg)
    warmup_epoch = optim_cfg.WARMUP_EPOCH
    if warmup_epoch <= 0:
        return scheduler
    if not optim_cfg.WARMUP_RECOUNT:
        scheduler.last_epoch = warmup_epoch
    check_availability(optim_cfg.WARMUP_TYPE, ["constant", "linear"])
    if optim_cfg.WARMUP_TYPE == "constant":
        return ConstantWarmupScheduler(optimizer, scheduler, warmup_epoch, optim_cfg.WARMUP_CONS_LR)
    return LinearWarmupScheduler(optimizer, scheduler, warmup_epoch, optim_cfg.WARMUP_MIN_LR)


def _build_main(optimizer: Optimizer, optim_cfg: CfgNode) -> LRScheduler:
    """Build the schedule that follows the warm-up."""
    check_availability(optim_cfg.LR_SCHEDULER, AVAI_SCHEDS)
    stepsize, gamma = optim_cfg.STEPSIZE, optim_cfg.GAMMA
    if optim_cfg.LR_SCHEDULER == "cosine":
        return CosineAnnealingLR(optimizer, optim_cfg.MAX_EPOCH)
    if optim_cfg.LR_SCHEDULER == "multi_step":
        if not isinstance(stepsize, (list, tuple)):
            raise TypeError(f"OPTIM.STEPSIZE of multi_step: {stepsize!r}; expected a list of epochs")
        return MultiStepLR(optimizer, milestones=stepsize, gamma=gamma)
    if isinstance(stepsize, (list, tuple)):
        stepsize = stepsize[-1]
    if not isinstance(stepsize, int):
        raise TypeError(f"OPTIM.STEPSIZE of single_step: {stepsize!r}; expected an integer")
    return StepLR(optimizer, step_size=stepsize if stepsize > 0 else optim_cfg.MAX_EPOCH, gamma=gamma)
