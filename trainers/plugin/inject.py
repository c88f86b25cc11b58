"""Bring a boosting prompt into another toolbox's model by hooks: none of its code is touched (see `passes`)."""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from ..engine import ORDERS, PromptGroup
from ..engine.prompts import check_stacks
from .passes import ROWS, TOKENS, TowerHooks
from .structure import HostError, NeverRan, Tower, find_towers, unwrap
from .texts import check_lengths, head_length

logger = logging.getLogger(__name__)


def inject(
    model: nn.Module,
    group: PromptGroup,
    order: str = "boosting_first",
    host_tokens: int | None = None,
    class_names: Sequence[str] = (),
) -> "Injection":
    """Bring a boosting prompt into a model.

    Everything is checked before anything is changed.

    The tokens become buffers of the model's blocks: they move with the model, no optimiser sees them, and the keys of
    its state dict stay the same. `nn.DataParallel` around the model works.

    Args:
        model: a model with CLIP's towers (see `structure.find_towers`); only towers that `group` has tokens for are needed.
        group: the boosting prompt.
        order: its place in a text, boosting_first or host_first.
        host_tokens: for host_first, how many tokens the host has between SOS and the class name; None: read from the
            model (see `texts.head_length`).
        class_names: for messages.

    Returns:
        the injection; its `remove()` takes the prompt out.

    Raises:
        HostError: the model is of another structure, does not show `host_tokens`, has a text that becomes too long, or has
            a boosting prompt already, or is compiled.
        ValueError: another order, or tokens that do not fit the towers.
    """
    if order not in ORDERS:
        raise ValueError(f"TRAINER.CASPL.TEXT_ORDER: {order!r}; expected one of {', '.join(ORDERS)}")
    kinds = [kind for kind in ("vision", "text") if getattr(group, kind).numel()]
    towers = find_towers(model, kinds)
    hooks = [_hooks(model, tower, group, order, host_tokens, class_names) for tower in towers.values()]
    injection = Injection(unwrap(model), hooks)
    try:
        injection.attach()
    except Exception:
        injection.remove()
        raise
    return injection


def _hooks(
    model: nn.Module,
    tower: Tower,
    group: PromptGroup,
    order: str,
    host_tokens: int | None,
    class_names: Sequence[str],
) -> TowerHooks:
    """Check that a tower can take its tokens, and return its hooks."""
    _check_not_compiled(model, tower)
    stack = getattr(group, tower.kind).detach()
    check_stacks([stack], len(tower.blocks), tower.width, tower.kind)
    if any(hasattr(block, TOKENS) for block in tower.blocks):
        raise HostError(
            f"{type(unwrap(model)).__name__}: {tower.path} has a boosting prompt already; expected none. remove() it first"
        )
    if tower.kind == "vision":
        return TowerHooks(tower, stack)
    mask = getattr(tower.owner, "attn_mask", getattr(tower.blocks[0], "attn_mask", True))
    if mask is None:
        raise HostError(
            f"{tower.path}: this text tower has no causal mask ({type(tower.owner).__name__}); expected CLIP's. Use a boosting "
            "prompt without text tokens (DEPTH_TEXT 0)"
        )
    known = check_lengths(model, len(tower.table()), stack.shape[1], class_names)
    head = 0 if order == "boosting_first" else head_length(model) if host_tokens is None else host_tokens
    hooks = TowerHooks(tower, stack, 1 + head)
    hooks.checked = known
    return hooks


class Injection:
    """A boosting prompt in a model. `remove()` takes it out.

    The model then computes what it did before.

    As a context manager it removes the prompt when the block ends.

    Attributes:
        hooks: those of each tower.
    """

    def __init__(self, model: nn.Module, hooks: Sequence[TowerHooks]):
        self.model, self.hooks = model, list(hooks)
        self._handles: list[RemovableHandle] = []

    @classmethod
    def joined(cls, first: "Injection", *others: "Injection") -> "Injection":
        """Return several injections as one."""
        joined = cls(first.model, [hooks for each in (first, *others) for hooks in each.hooks])
        joined._handles = [handle for each in (first, *others) for handle in each._handles]
        return joined

    def attach(self) -> None:
        """Register all hooks, again if they were registered before."""
        self.remove()
        for hooks in self.hooks:
            self._handles.extend(hooks.attach())
        whole = any(hasattr(self.model, name) for name in ("visual", "vision_model"))  # a CLIP, which is used by parts
        if not whole:
            self._handles.append(self.model.register_forward_hook(partial(check_ran, self.hooks)))

    def remove(self) -> None:
        """Take the boosting prompt out. Calling it twice is a no-op."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for hooks in self.hooks:
            hooks.detach()

    def describe(self) -> str:
        """Return where the prompt entered and how, for the log."""
        return "; ".join(
            f"{hooks.tower.path}: {hooks.depth} x {hooks.tokens} {hooks.tower.kind} tokens"
            + (f", as rows in {hooks.modes.count(ROWS)} of {hooks.layers} blocks" if ROWS in hooks.modes else "")
            for hooks in self.hooks
        )

    def __enter__(self) -> "Injection":
        return self

    def __exit__(self, *exception) -> None:
        self.remove()


def check_ran(hooks: Sequence[TowerHooks], model: nn.Module, args: Any, output: Any) -> None:
    """Raise `NeverRan` if the model gave a result without running a prompted tower.

    A tower that ran only around its door counts as not run.
    """
    for each in hooks:
        kind = each.tower.kind
        passes, outside = each.seen
        each.seen = (each.passes, each.outside)
        if each.passes > passes:
            each.ran_in.add(model.training)
        elif each.outside > outside and model.training not in each.ran_in and each.ran_in:
            mode = "training" if model.training else "evaluation"
            raise NeverRan(
                f"{type(model).__name__}: in {mode} it runs {each.tower.path} without {type(each.tower.door).__name__}, where "
                "the boosting tokens enter; expected one entrance in training and evaluation. Use a boosting prompt without "
                f"{kind} tokens (DEPTH_{kind.upper()} 0)",
                kind,
            )
        if not (each.passes or each.tried):
            raise NeverRan(
                f"{type(model).__name__}: gave a result without its {each.tower.path}; expected a forward pass of it, where "
                f"the boosting tokens enter. Its {kind} features were computed before; compute them in the forward pass, or "
                f"use a boosting prompt without {kind} tokens (DEPTH_{kind.upper()} 0)",
                kind,
            )


def _check_not_compiled(model: nn.Module, tower: Tower) -> None:
    """Reject towers that `torch.compile` has compiled: compiled code may run without the hooks.

    Raises:
        HostError: names the module.
    """
    inside = {id(module) for module in tower.blocks.modules()}
    for path, module in model.named_modules():
        compiled = hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        if compiled and (id(module) in inside or any(part is tower.blocks for part in module.modules())):
            raise HostError(
                f"{path or type(unwrap(model)).__name__}: compiled by torch.compile, which may run without the "
                f"boosting tokens of {tower.path}; expected a model that is not compiled. Compile it after the "
                "boosting prompt is in"
            )
