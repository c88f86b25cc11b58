"""Brings a boosting prompt into the model of another toolbox, by hooks alone: none of its code is touched.

Each toolbox of the CoOp family brings blocks of its own: stock ones (CoOp), ones that replace their prompts inside
(PromptSRC), ones that pass a list on (MaPLe). All of them compute `x + attn(ln_1(x))`, then `x + mlp(ln_2(x))`. So the
boosting tokens enter as extra keys and values of each block's `attn`, and the host's own sequence never changes its
length: whatever the host indexes stays where it was. From the boosting depth on the tokens are carried: there they are
queries too, and pass through the block's `mlp`.

In the text tower the host's tokens behind the boosting prompt get the positions where they now stand, and the causal
mask gains rows and columns for the tokens.

L blocks, d a tower's width, N sequences at a time (images or classes), T host tokens in each, n boosting tokens. The
family's tensors are (T, N, d).
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..engine import ORDERS, PromptGroup
from ..engine.prompts import check_stacks
from .family import HostError, Parts, check_lengths, find_parts, head_length

_TOKENS = "boosting_tokens"  # the buffer of each of the first `depth` blocks, with that block's tokens (n, d)


def inject(
    model: nn.Module,
    group: PromptGroup,
    order: str = "boosting_first",
    host_tokens: int | None = None,
    class_names: Sequence[str] = (),
) -> "Injection":
    """Bring a boosting prompt into a host's model; everything is checked before anything is changed.

    The tokens become buffers of the host's blocks: they move with the model, no optimiser sees them, and the keys of
    the host's state dict stay as they were. `nn.DataParallel` around the model works.

    Args:
        model: a model of the CoOp family (see `family.find_parts`).
        group: the boosting prompt.
        order: where it stands in a text (see `engine.layout.arrange`).
        host_tokens: for `host_first`, how many tokens the host has between SOS and the class name; None: the model is
            asked (see `family.head_length`).
        class_names: for messages.

    Returns:
        What takes it out again.

    Raises:
        HostError: the model is of another shape, does not tell `host_tokens`, has a text that becomes too long, or has
            a boosting prompt already.
        ValueError: another order, or tokens that do not fit the towers.
    """
    if order not in ORDERS:
        raise ValueError(f"TRAINER.CASPL.TEXT_ORDER is {order!r}, expected one of {', '.join(ORDERS)}")
    parts = find_parts(model)
    vision_blocks, text_blocks = parts.image.transformer.resblocks, parts.text.transformer.resblocks
    check_stacks([group.vision], len(vision_blocks), parts.image.ln_post.weight.shape[0], "vision")
    check_stacks([group.text], len(text_blocks), parts.text.ln_final.weight.shape[0], "text")
    towers = []
    if group.vision.numel():
        towers.append(_Tower("image_encoder", len(vision_blocks), *group.vision.shape[:2]))
    if group.text.numel():
        check_lengths(parts, group.text.shape[1], class_names)
        head = 0 if order == "boosting_first" else head_length(parts) if host_tokens is None else host_tokens
        towers.append(_TextTower("text_encoder", len(text_blocks), *group.text.shape[:2], ahead=1 + head))
    if any(hasattr(block, _TOKENS) for block in (*vision_blocks, *text_blocks)):
        raise HostError(f"{type(parts.model).__name__} has a boosting prompt already: remove() that one first")
    injection = Injection(parts, towers)
    try:
        injection._attach(group)
    except Exception:
        injection.remove()
        raise
    return injection


class Injection:
    """A boosting prompt in a host's model. `remove()` takes it out; the host then computes what it did before."""

    def __init__(self, parts: Parts, towers: "Sequence[_Tower]"):
        self._parts, self._towers = parts, towers
        self._handles: list[RemovableHandle] = []

    def _attach(self, group: PromptGroup) -> None:
        device = self._parts.text.positional_embedding.device
        for tower in self._towers:
            stack = getattr(group, tower.kind).detach().to(device)
            self._handles.extend(tower.attach(getattr(self._parts.model, tower.name), stack))
        self._handles.append(self._parts.model.register_forward_hook(partial(_check_ran, self._towers)))

    def remove(self) -> None:
        """Take the boosting prompt out. Twice does no harm."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for encoder in (self._parts.image, self._parts.text):
            for block in encoder.transformer.resblocks:
                if hasattr(block, _TOKENS):
                    delattr(block, _TOKENS)


def _check_ran(towers: "Sequence[_Tower]", model: nn.Module, args, output) -> None:
    """A host that computes its text features while it is built would never notice the boosting prompt: say so."""
    for tower in towers:
        if not tower.ran:
            raise HostError(
                f"{type(model).__name__} gave a result without its {tower.name}, so the boosting prompt never entered: "
                "the host has computed those features beforehand. Let its forward compute them, or use a boosting "
                f"prompt without {tower.kind} tokens (phase 1 with TRAINER.CASPL.DEPTH_{tower.kind.upper()} 0)"
            )


@dataclass
class _Pass:
    """How far a forward pass of one tower has come.

    Attributes:
        tower: whose.
        tokens: the boosting tokens at the current block's input, (n, 1 or N, d).
        shift: (77, d), what the positional embeddings of the host's tokens change by (text).
        mask: the host's mask with the tokens in it (text).
        index, block: the current block; carrying: whether the tokens pass through it.
    """

    tower: "_Tower"
    tokens: Tensor
    shift: Tensor | None = None
    mask: Tensor | None = None
    index: int = -1
    block: nn.Module | None = None
    carrying: bool = False


# nn.DataParallel runs replicas of the modules, each in a thread of its own, with the hooks of the original. So a hook
# finds the tokens and weights on the module that it is given, and what a pass has to remember belongs to the thread.
_running = threading.local()


class _Tower:
    """The hooks of one encoder; this one for a ViT.

    Args:
        name: the model's attribute that the encoder is.
        layers: L; depth: how many blocks have boosting tokens of their own; tokens: n.
    """

    kind = "vision"

    def __init__(self, name: str, layers: int, depth: int, tokens: int):
        self.name, self.layers, self.depth, self.tokens = name, layers, depth, tokens
        self.ran = False

    def attach(self, encoder: nn.Module, stack: Tensor) -> Iterator[RemovableHandle]:
        """Give the blocks their tokens, `stack` (depth, n, d), and register the hooks."""
        yield encoder.register_forward_pre_hook(self.start)
        for i, block in enumerate(encoder.transformer.resblocks):
            if i < self.depth:
                block.register_buffer(_TOKENS, stack[i], persistent=False)
            yield block.register_forward_pre_hook(partial(self.enter, i))
            yield block.attn.register_forward_pre_hook(self.extend, with_kwargs=True)
            yield block.attn.register_forward_hook(self.split)

    def start(self, encoder: nn.Module, args) -> None:
        """Hook ahead of the encoder: a pass begins."""
        self.ran = True
        _running.current = self.begin(encoder, getattr(encoder.transformer.resblocks[0], _TOKENS)[:, None])

    def begin(self, encoder: nn.Module, tokens: Tensor) -> _Pass:
        """The layer-0 tokens (n, 1, d) enter ahead of `ln_pre`."""
        return _Pass(self, encoder.ln_pre(tokens))

    def enter(self, index: int, block: nn.Module, args):
        """Hook ahead of a block: its own tokens, if it has any, take the place of those that came here."""
        run = getattr(_running, "current", None)
        if run is None or run.tower is not self or run.index != index - 1:
            raise HostError(
                f"block {index} of {self.name} runs outside of a forward pass of {self.name}, where the boosting "
                "prompt enters: the host calls its blocks itself, or singly once more (gradient checkpointing)"
            )
        run.index, run.block = index, block
        run.carrying = self.depth <= index + 1 < self.layers
        if 0 < index < self.depth:
            run.tokens = getattr(block, _TOKENS)[:, None]
        return _move(args, run.shift) if index == 0 and run.shift is not None else None

    def extend(self, attn: nn.Module, args, kwargs):
        """Hook ahead of a block's attention: the tokens are keys and values, and queries where they are carried."""
        run = _running.current
        if len(args) != 3 or args[1] is not args[2] or kwargs.get("key_padding_mask") is not None:
            raise HostError(
                f"the blocks of {self.name} do not call attn(x, x, x, attn_mask=...): CasPL knows no other way"
            )
        query, key, _ = args
        run.tokens = run.tokens.to(query.dtype)
        tokens = run.block.ln_1(run.tokens).expand(-1, query.shape[1], -1)
        keys = torch.cat([key, tokens])
        if run.carrying:
            query = torch.cat([query, tokens])
        mask = self.extend_mask(run, kwargs.get("attn_mask"))
        return (query, keys, keys), kwargs | {"attn_mask": mask if mask is None else mask[: len(query)]}

    def extend_mask(self, run: _Pass, mask: Tensor | None) -> Tensor | None:
        """The attention mask with the tokens in it: a ViT has none."""
        if mask is not None:
            raise HostError(f"the blocks of {self.name} have an attention mask, which CLIP's image encoder has not")
        return None

    def split(self, attn: nn.Module, args, output):
        """Hook behind a block's attention: the host gets its own rows; carried tokens go on through the block."""
        run = _running.current
        if run.index + 1 == self.layers:
            _running.current = None
        if not run.carrying:
            return None
        rows = len(output[0]) - self.tokens
        tokens = run.tokens + output[0][rows:]
        run.tokens = tokens + run.block.mlp(run.block.ln_2(tokens))
        return (output[0][:rows], *output[1:])


class _TextTower(_Tower):
    """The hooks of a text encoder.

    Args:
        ahead: how many of the host's tokens stand ahead of the boosting prompt, SOS counted.
        others: as for `_Tower`.
    """

    kind = "text"

    def __init__(self, *others, ahead: int):
        super().__init__(*others)
        self.ahead = ahead

    def begin(self, encoder: nn.Module, tokens: Tensor) -> _Pass:
        """The layer-0 tokens get positions; the host's tokens behind them move on (of the padding, the end cannot)."""
        position, ahead, behind = encoder.positional_embedding, self.ahead, self.ahead + self.tokens
        moved = position[behind:] - position[ahead : len(position) - self.tokens]
        shift = torch.cat([torch.zeros_like(position[:ahead]), moved, torch.zeros_like(position[: self.tokens])])
        return _Pass(self, tokens + position[ahead:behind, None], shift)

    def extend_mask(self, run: _Pass, mask: Tensor | None) -> Tensor:
        """The causal mask (T + n, T + n): the tokens, last in it, stand behind the host's first `ahead`."""
        if mask is None or mask.dim() != 2:
            raise HostError(f"the blocks of {self.name} have no causal mask (T, T), which CLIP's text tower has")
        if run.mask is not None and run.mask.dtype == mask.dtype:
            return run.mask
        host = len(mask)
        hidden = torch.zeros(host + self.tokens, host + self.tokens, dtype=torch.bool, device=mask.device)
        hidden[: self.ahead, host:] = True
        hidden[host:, self.ahead : host] = True
        hidden[host:, host:] = torch.ones_like(hidden[host:, host:]).triu(1)
        run.mask = torch.zeros_like(hidden, dtype=mask.dtype).masked_fill(
            hidden, float("-inf")
        )  # True if it is boolean
        run.mask[:host, :host] = mask
        return run.mask


def _move(args: tuple, shift: Tensor) -> tuple:
    """The arguments of the first block with `shift` (77, d) added to the host's tokens (T, N, d)."""
    first = args[0]
    rest = first[1:] if isinstance(first, list | tuple) else None  # MaPLe's blocks take a list
    x = first if rest is None else first[0]
    x = x + shift[: len(x), None].to(x.dtype)
    return (x if rest is None else [x, *rest], *args[1:])
