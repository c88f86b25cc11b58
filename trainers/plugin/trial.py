"""Try a prompted model on a copy of it, before training: which mode each block needs, and whether it can be served."""

import copy
import inspect
import logging

import torch
from torch import Tensor, nn

from .inject import Injection
from .randomness import same_randomness
from .structure import HostError, NeverRan, unwrap

logger = logging.getLogger(__name__)

_NOISE = 0.02  # wakes adapters that start at zero


def try_out(model: nn.Module, injection: Injection, size: tuple[int, int]) -> bool:
    """Run copies of a prompted model in eval and train mode.

    The injection uses the modes that they found.

    The copies' learned parameters get noise, so that an adapter that starts at zero shows itself. The model, its buffers
    and all random number generators stay unchanged.

    Args:
        model: the model, with `injection` in it.
        injection: the injection.
        size: height and width of the images.

    Returns:
        whether the model could be tried. If not, it is checked in its first forward pass.

    Raises:
        NeverRan: a prompted tower does not run in the model's forward pass.
        HostError: a block can take the boosting tokens in no mode.
    """
    tried = False
    for training in (False, True):
        with same_randomness():
            try:
                twin, again = copy.deepcopy((unwrap(model), injection))
            except Exception as error:
                logger.debug("%s could not be copied: %s", type(unwrap(model)).__name__, error)
                continue
            _add_noise(twin.train(training))
            images = torch.randn(2, 3, *size, device=next(model.parameters()).device)
            try:
                ran = _forward(twin, images, training)
            except HostError:
                raise
            except Exception as error:  # the host's own code, with made-up images
                _check_that_it_fails_alone(twin, again, images, training, error)
                logger.debug("%s could not be tried on a copy: %s", type(unwrap(model)).__name__, error)
                continue
        tried = tried or ran
        for ours, theirs in zip(injection.hooks, again.hooks, strict=True):
            if ran and not theirs.passes and (theirs.outside or not training):
                _use_inner_door(model, injection, ours, theirs)
                return try_out(model, injection, size)
            ours.modes, ours.tried = list(theirs.modes), ours.tried or theirs.passes > 0
    return tried


def _check_that_it_fails_alone(
    twin: nn.Module, injection: Injection, images: Tensor, training: bool, error: Exception
) -> None:
    """Raise `HostError` if a copy of the model failed in a prompted block, and does not fail without the tokens."""
    failed = [hooks for hooks in injection.hooks if hooks.failed >= 0]
    injection.remove()
    try:
        _forward(twin, images, training)
    except Exception:
        return
    if failed:
        tower, index = failed[0].tower, failed[0].failed
        raise HostError(
            f"{tower.path}: block {index} ({type(tower.blocks[index]).__name__}) fails with the boosting tokens "
            f"({type(error).__name__}: {error}); expected an attention that takes more tokens. Use a boosting prompt without "
            f"{tower.kind} tokens (DEPTH_{tower.kind.upper()} 0)"
        ) from error


def _use_inner_door(model: nn.Module, injection: Injection, ours, theirs) -> None:
    """Move a tower's door to the module around its blocks, where the model calls only that.

    Raises:
        NeverRan: the blocks do not run at all, or the door is there already.
    """
    tower = ours.tower
    if not theirs.outside or tower.door is tower.inner_door:
        raise NeverRan(
            f"{type(unwrap(model)).__name__}: its forward pass does not run {tower.path}; expected it to, since the boosting "
            f"tokens enter there. Use a boosting prompt without {tower.kind} tokens (DEPTH_{tower.kind.upper()} 0)",
            tower.kind,
        )
    tower.door, tower.inside = tower.inner_door, None
    injection.attach()


def _add_noise(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                parameter.add_(torch.randn_like(parameter) * _NOISE)


def _forward(model: nn.Module, images: Tensor, training: bool) -> bool:
    """Call the model as the family's trainers do: with images, in training with labels if it takes them."""
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
    takes = len(inspect.signature(model.forward).parameters)
    calls = [(images, labels), (images,)] if training and takes > 1 else [(images,)]
    error: Exception | None = None
    for call in calls:
        try:
            with torch.no_grad():
                model(*call)
            return True
        except NeverRan:  # `try_out` looks for another door
            return True
        except HostError:
            raise
        except Exception as problem:
            error = problem
    assert error is not None
    raise error
