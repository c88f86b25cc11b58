"""Build a host's model with a boosting prompt in it.

Hosts that compute their text features while they are built, and keep no text tower that runs, are built twice. The
first time, the CLIPs that they load are watched: exactly one of them runs its text tower. The second time, that CLIP has
the text tokens before it runs.
"""

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..engine import PromptGroup
from .inject import Injection, inject
from .randomness import randomness, set_randomness
from .structure import HostError, NeverRan, NoTower, Tower, find_towers, look_up
from .trial import try_out

logger = logging.getLogger(__name__)


@dataclass
class LoadedCLIP:
    """A CLIP that was loaded while a host was built.

    Attributes:
        stacks: the blocks of its towers, by kind.
        projections: of vision and text, as they were loaded; empty if it has none.
        text_runs: passes through its text tower while the host was built.
    """

    stacks: dict[str, nn.Sequential | nn.ModuleList]
    projections: tuple[Tensor, ...]
    text_runs: int = 0


@dataclass
class Built:
    """What came of building a host.

    Attributes:
        injection: the boosting prompt in its model; None for a model that cascades by itself.
        loaded: CLIPs that it has loaded.
        text_while_building: whether its text features were computed while it was built.
    """

    injection: Injection | None = None
    loaded: list[LoadedCLIP] = field(default_factory=list)
    text_while_building: bool = False

    def origin(self, tower: Tower) -> list[LoadedCLIP]:
        """Return the loaded CLIP that a tower belongs to; all of them if it is a copy."""
        own = [clip for clip in self.loaded if clip.stacks.get(tower.kind) is tower.blocks]
        return own or self.loaded


def build_prompted(
    trainer: Any,
    build: Callable[[], None],
    group: PromptGroup,
    order: str,
    size: tuple[int, int],
    class_names: Sequence[str],
    check: Callable[[Built], None],
) -> Built:
    """Build a host's model and bring the boosting prompt into it.

    Args:
        trainer: the Dassl trainer; its `model` is set by `build`.
        build: builds and registers the model.
        group: the boosting prompt; order: its place in a text.
        size: height and width of the images.
        class_names: for messages.
        check: raises if the prompt was made for another backbone.

    Returns:
        the injection and what is known of the host.

    Raises:
        HostError: the host cannot be served.
    """
    state = randomness()
    built = Built()
    with _watching(built.loaded):
        build()
    if hasattr(trainer.model, "cascade"):
        return built
    try:
        built.injection = inject(trainer.model, group, order, class_names=class_names)
        check(built)
        _try(trainer, built.injection, size)
        return built
    except (NoTower, NeverRan) as error:
        if built.injection is not None:
            built.injection.remove()
        if error.kind != "text":
            raise
        number = _only_text(built.loaded, trainer, error)
    set_randomness(state)
    return _build_again(trainer, build, group, order, size, number, check)


def _try(trainer, injection: Injection, size: tuple[int, int]) -> None:
    if not try_out(trainer.model, injection, size):
        logger.info("%s: not tried on a copy; checked in its first forward pass", type(trainer.model).__name__)
    logger.info("Boosting prompt in %s", injection.describe())


def _only_text(loaded: list[LoadedCLIP], trainer, error: HostError) -> int:
    """Return the number of the one loaded CLIP that computed text features while the host was built.

    Raises:
        HostError: none did, or several.
    """
    ran = [number for number, clip in enumerate(loaded) if clip.text_runs]
    if len(ran) == 1:
        return ran[0]
    raise HostError(
        f"{error} While {type(trainer).__name__} was built, {len(ran)} of the {len(loaded)} CLIPs that it loads computed text "
        "features; expected 1. Use a boosting prompt without text tokens (DEPTH_TEXT 0)"
    ) from error


def _build_again(trainer, build, group, order, size, number, check) -> Built:
    """Build the host from the same random state, with text tokens in the loaded CLIP of a number."""
    logger.info(
        "%s computes its text features while it is built: building it again with the text tokens",
        type(trainer).__name__,
    )
    for name in ("_models", "_optims", "_scheds"):
        setattr(trainer, name, OrderedDict())
    nothing = torch.zeros(0, 0, 0)
    injections: list[Injection] = []
    built = Built(text_while_building=True)

    def prompt(clip: nn.Module) -> None:
        if len(built.loaded) == number + 1:
            injections.append(inject(clip, PromptGroup(group.text.detach(), nothing), order))

    with _watching(built.loaded, prompt):
        build()
    text = injections[0].hooks[0]
    if not text.passes:
        raise HostError(
            f"{type(trainer).__name__}: computed its text features while it was built the first time, but not the second time; "
            "expected the same. Use a boosting prompt without text tokens (DEPTH_TEXT 0)"
        )
    vision = inject(trainer.model, PromptGroup(nothing, group.vision.detach()), order)
    injection = built.injection = Injection.joined(vision, injections[0])
    check(built)
    if group.vision.numel():
        _try(trainer, vision, size)
    logger.info("Text features were computed with the boosting prompt (%d passes)", text.passes)
    assert injection is not None
    return built


@contextlib.contextmanager
def _watching(loaded: list[LoadedCLIP], then: Callable[[nn.Module], None] = lambda clip: None) -> Iterator[None]:
    """Note every CLIP that gets its weights while the block runs, and how often its text tower runs."""
    load = nn.Module.load_state_dict
    handles = []

    def load_state_dict(self, *args, **kwargs):
        result = load(self, *args, **kwargs)
        if hasattr(self, "token_embedding") and hasattr(self, "visual"):
            handles.append(_note(self, loaded))
            then(self)
        return result

    nn.Module.load_state_dict = load_state_dict  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.load_state_dict = load  # type: ignore[method-assign]
        for handle in handles:
            handle.remove()


def _note(clip: nn.Module, loaded: list[LoadedCLIP]):
    stacks = {}
    for kind in ("vision", "text"):
        with contextlib.suppress(HostError):
            stacks[kind] = find_towers(clip, [kind])[kind].blocks
    projections = [look_up(clip, path) for path in ("visual.proj", "text_projection")]
    whole = all(isinstance(value, Tensor) for value in projections)
    known = LoadedCLIP(stacks, tuple(value.detach().clone() for value in projections) if whole else ())
    loaded.append(known)

    def count(block: nn.Module, args) -> None:
        known.text_runs += 1

    return stacks["text"][0].register_forward_pre_hook(count)
