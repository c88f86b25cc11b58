"""Brings a boosting prompt into the model of another toolbox, by hooks alone: none of its code is touched.

The CoOp family keeps CLIP's two towers in a model's `image_encoder` and `text_encoder`, but each member brings blocks of
its own: stock ones (CoOp), ones that replace their prompts inside (PromptSRC), ones that pass a list on (MaPLe). All of
them compute `x + attn(ln_1(x))`, then `x + mlp(ln_2(x))`. So the boosting tokens enter as extra keys and values of each
block's `attn`, and the host's own sequence never changes its length: whatever the host indexes stays where it was.
In blocks behind the boosting depth the tokens are carried; there they are queries too, and pass through the block's `mlp`.

In the text tower the host's tokens behind the boosting prompt get the positions where they now stand, and the causal mask
gains rows and columns for the tokens.

L blocks, d a tower's width, N sequences at a time (images or classes), T host tokens in each, n boosting tokens. The
family's tensors are (T, N, d).
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .engine import ORDERS, PromptGroup
from .engine.prompts import check_stacks
from .engine.vision import is_transformer

logger = logging.getLogger(__name__)

_TOKENS = "boosting_tokens"  # the buffer, in each of the first `depth` blocks, of that block's own tokens
_FAMILY = {
    "image_encoder": ("ln_pre", "transformer.resblocks", "ln_post", "proj"),
    "text_encoder": ("positional_embedding", "transformer.resblocks", "ln_final", "text_projection"),
}
_BLOCK = ("attn", "ln_1", "ln_2", "mlp")


class InjectionError(ValueError):
    """A model that no boosting prompt can be brought into; says what is missing."""


class Parts(NamedTuple):
    """The parts of a host's model that all of the CoOp family have, by what they are.

    Attributes:
        model: the model itself, out of an `nn.DataParallel`.
        image: its `image_encoder`; text: its `text_encoder`.
        learner: its `prompt_learner`, None if it has none.
    """

    model: nn.Module
    image: nn.Module
    text: nn.Module
    learner: nn.Module | None


def find_parts(model: nn.Module) -> Parts:
    """The family-shaped parts of a model.

    Raises:
        InjectionError: names all that is missing, or what is of another kind.
    """
    if isinstance(model, nn.DataParallel):
        model = model.module
    image = getattr(model, "image_encoder", None)
    if image is not None and not is_transformer(image):
        raise InjectionError(
            f"the image encoder of {type(model).__name__} is a {type(image).__name__}, which has no vision tokens for a "
            "boosting prompt: choose a ViT as MODEL.BACKBONE.NAME"
        )
    missing = [f"{encoder}.{name}" for encoder, names in _FAMILY.items() for name in names]
    missing = [path for path in missing if _look_up(model, path) is None]
    for encoder in _FAMILY:
        for i, block in enumerate(_look_up(model, f"{encoder}.transformer.resblocks") or ()):
            here = f"{encoder}.transformer.resblocks.{i}"
            missing += [f"{here}.{name}" for name in _BLOCK if not hasattr(block, name)]
            attn = getattr(block, "attn", None)
            if attn is not None and (not isinstance(attn, nn.MultiheadAttention) or attn.batch_first):
                missing.append(f"{here}.attn as an nn.MultiheadAttention with the batch second")
    if missing:
        raise InjectionError(
            f"the model {type(model).__name__} is not built as those of the CoOp family, so CasPL cannot enter it. It "
            f"lacks {', '.join(missing)}"
        )
    return Parts(model, image, model.text_encoder, getattr(model, "prompt_learner", None))


def _look_up(owner, path: str):
    for name in path.split("."):
        owner = getattr(owner, name, None)
    return owner


def inject(
    model: nn.Module,
    group: PromptGroup,
    order: str = "boosting_first",
    host_tokens: int | None = None,
    class_names: Sequence[str] = (),
) -> "Injection":
    """Bring a boosting prompt into a host's model; everything is checked before anything is changed.

    The tokens become buffers of the host's blocks: they move with the model, no optimiser sees them, and the keys of the
    host's state dict stay as they were. `nn.DataParallel` around the model works.

    Args:
        model: a model of the CoOp family (see `find_parts`).
        group: the boosting prompt. Its tensors are not copied where they are on the model's device already.
        order: where it stands in a text (see `engine.layout.arrange`).
        host_tokens: for `host_first`, how many tokens the host has ahead of the class name; None: found in the model.
        class_names: for messages.

    Returns:
        What takes it out again.

    Raises:
        InjectionError: the model is of another shape, has a boosting prompt already, or `host_tokens` cannot be found.
        ValueError: another order, tokens that do not fit the towers, or a text that becomes too long.
    """
    parts = find_parts(model)
    if order not in ORDERS:
        raise ValueError(f"TRAINER.CASPL.TEXT_ORDER is {order!r}, expected one of {', '.join(ORDERS)}")
    towers = []
    if group.vision.numel():
        check_stacks(
            [group.vision], len(parts.image.transformer.resblocks), parts.image.ln_post.weight.shape[0], "vision"
        )
        towers.append(_Tower("image_encoder", *group.vision.shape[:2]))
    if group.text.numel():
        check_stacks([group.text], len(parts.text.transformer.resblocks), parts.text.ln_final.weight.shape[0], "text")
        ahead = 1 + _host_head(parts, host_tokens) if order == "host_first" else 1
        _check_lengths(parts, group.text.shape[1], class_names)
        towers.append(_TextTower("text_encoder", *group.text.shape[:2], ahead))
    if any(hasattr(block, _TOKENS) for encoder in parts[1:3] for block in encoder.transformer.resblocks):
        raise InjectionError(f"{type(parts.model).__name__} has a boosting prompt already: remove() that one first")
    device = parts.text.positional_embedding.device
    stacks = {"image_encoder": group.vision.detach().to(device), "text_encoder": group.text.detach().to(device)}
    injection = Injection(parts, towers)
    try:
        injection._attach(stacks)
    except Exception:
        injection.remove()
        raise
    return injection


def _host_head(parts: Parts, host_tokens: int | None) -> int:
    """How many tokens the host has between SOS and the class name."""
    if host_tokens is not None:
        return host_tokens
    learner = parts.learner
    context = getattr(learner, "ctx", None)
    n_ctx = getattr(learner, "n_ctx", context.shape[-2] if isinstance(context, Tensor) and context.dim() > 1 else None)
    position = getattr(learner, "class_token_position", "end")
    if not isinstance(n_ctx, int) or position not in ("end", "middle", "front"):
        raise InjectionError(
            f"TRAINER.CASPL.TEXT_ORDER is host_first, but {type(parts.model).__name__} does not tell how many context "
            "tokens stand ahead of the class name (there is no prompt_learner.n_ctx or .ctx): use boosting_first"
        )
    return {"end": _worded_head(parts, n_ctx), "middle": n_ctx // 2, "front": 0}[position]


def _worded_head(parts: Parts, n_ctx: int) -> int:
    """The context and the fixed words behind it (MaPLe with 2 tokens keeps "of a"), if the host tells where names start.

    The family's texts end with the class name, a full stop and EOT, and `name_lens` has the names' lengths.
    """
    rows, lengths = _texts(parts), getattr(parts.learner, "name_lens", None)
    if rows is None or lengths is None or len(lengths) != len(rows):
        return n_ctx
    # A name that ends with punctuation swallows the full stop, so the longest head is the true one.
    head = max((rows.argmax(dim=-1).cpu() - 2 - torch.tensor(lengths)).tolist())
    if head <= n_ctx or not torch.equal(rows[:, : 1 + head], rows[:1, : 1 + head].expand(len(rows), -1)):
        return n_ctx
    logger.info(
        "The host keeps %d fixed words behind its context: the boosting prompt stands behind them", head - n_ctx
    )
    return head


def _texts(parts: Parts) -> Tensor | None:
    """The host's token ids (C, 77), EOT the highest of each row; None if the host does not tell."""
    for owner in (parts.model, parts.learner):
        rows = getattr(owner, "tokenized_prompts", None)
        if isinstance(rows, Tensor) and rows.dim() == 2 and not rows.is_floating_point():
            return rows
    return None


def _check_lengths(parts: Parts, tokens: int, class_names: Sequence[str]) -> None:
    """Refuse texts whose EOT would be pushed beyond the last position."""
    rows, places = _texts(parts), len(parts.text.positional_embedding)
    if rows is None:
        logger.warning(
            "%s does not tell its tokenized_prompts: a class name too long for %d more tokens would go unnoticed",
            type(parts.model).__name__,
            tokens,
        )
        return
    for number, eot in enumerate(rows.argmax(dim=-1).tolist()):
        if eot + tokens >= places:
            name = class_names[number] if number < len(class_names) else f"number {number}"
            raise ValueError(
                f"class name {name!r} is too long: with all prompts its sequence has {eot + 1 + tokens} tokens, CLIP's text "
                f"tower takes {places}: shorten the name, or use fewer context tokens"
            )


class Injection:
    """A boosting prompt in a host's model. `remove()` takes it out; the host then computes what it computed before."""

    def __init__(self, parts: Parts, towers: "Sequence[_Tower]"):
        self._parts, self._towers = parts, towers
        self._handles: list[RemovableHandle] = []

    def _attach(self, stacks: dict[str, Tensor]) -> None:
        for tower in self._towers:
            self._handles.extend(tower.attach(getattr(self._parts.model, tower.name), stacks[tower.name]))
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
    """A host that computed its text features while it was built (VPT) would never notice the boosting prompt."""
    for tower in towers:
        if not tower.ran:
            raise InjectionError(
                f"{type(model).__name__} gave a result without its {tower.name}, so the boosting prompt never entered: the "
                "host has computed those features beforehand. Let its forward compute them, or use a boosting prompt "
                f"without {tower.kind} tokens (TRAINER.CASPL.DEPTH_{tower.kind.upper()} 0 in phase 1)"
            )


@dataclass
class _Pass:
    """How far a forward pass of one tower has come.

    Attributes:
        tower: whose. tokens: the boosting tokens at the current block's input, (n, 1 or N, d).
        shift: (T, d), what the host's positional embeddings change by (text). mask: the extended one (text).
        index, block: the current block's. carrying: whether it is given the tokens as queries.
    """

    tower: "_Tower"
    tokens: Tensor
    shift: Tensor | None = None
    mask: Tensor | None = None
    index: int = -1
    block: nn.Module | None = None
    carrying: bool = False


# Hooks run on the replicas that nn.DataParallel makes, each in a thread of its own: what a pass needs is found on the
# module that the hook is given (a replica has the tokens on its device), what it remembers is the thread's.
_running = threading.local()


class _Tower:
    """The hooks of one encoder.

    Args:
        name: the model's attribute that the encoder is.
        depth: how many blocks have tokens of their own.
        tokens: n.
    """

    kind = "vision"

    def __init__(self, name: str, depth: int, tokens: int):
        self.name, self.depth, self.tokens = name, depth, tokens
        self.layers = 0
        self.ran = False

    def attach(self, encoder: nn.Module, stack: Tensor) -> Iterator[RemovableHandle]:
        """Give the blocks their tokens, `stack` (depth, n, d), and register the hooks."""
        blocks = encoder.transformer.resblocks
        self.layers = len(blocks)
        yield encoder.register_forward_pre_hook(self.start)
        for i, block in enumerate(blocks):
            if i < self.depth:
                block.register_buffer(_TOKENS, stack[i], persistent=False)
            yield block.register_forward_pre_hook(partial(self.enter, i))
            yield block.attn.register_forward_pre_hook(self.extend, with_kwargs=True)
            yield block.attn.register_forward_hook(self.split)

    def start(self, encoder: nn.Module, args) -> None:
        """Hook, ahead of the encoder: a pass begins."""
        self.ran = True
        _running.current = self.begin(encoder, getattr(encoder.transformer.resblocks[0], _TOKENS))

    def begin(self, encoder: nn.Module, tokens: Tensor) -> _Pass:
        """The layer-0 tokens (n, d) as they come to the first block: in a ViT, behind `ln_pre`."""
        return _Pass(self, encoder.ln_pre(tokens[:, None]))

    def enter(self, index: int, block: nn.Module, args):
        """Hook, ahead of a block: tokens of its own replace those that came with the pass."""
        run = getattr(_running, "current", None)
        if run is None or run.tower is not self or run.index != index - 1:
            raise InjectionError(
                f"block {index} of {self.name} runs outside of a forward pass of {self.name}, where the boosting prompt "
                "enters: the host calls the blocks by itself, or computes single blocks again (gradient checkpointing)"
            )
        run.index, run.block = index, block
        run.carrying = self.depth <= index + 1 < self.layers
        if 0 < index < self.depth:
            run.tokens = getattr(block, _TOKENS)[:, None]
        return self.moved(run, args) if index == 0 and run.shift is not None else None

    def moved(self, run: _Pass, args):
        """The arguments of the first block, the host's tokens moved to where they now stand."""
        first = args[0]
        x = first[0] if isinstance(first, list | tuple) else first  # MaPLe's blocks take a list
        x = x + run.shift[: len(x), None].to(x.dtype)
        return ([x, *first[1:]] if isinstance(first, list | tuple) else x, *args[1:])

    def extend(self, attn: nn.Module, args, kwargs):
        """Hook, ahead of a block's attention: the tokens become keys and values, and queries where they are carried."""
        run = _running.current
        if len(args) != 3 or kwargs.get("key_padding_mask") is not None:
            raise InjectionError(
                f"the blocks of {self.name} call attn in a way that CasPL does not know: (x, x, x, attn_mask=)"
            )
        query, key, _ = args
        run.tokens = run.tokens.to(query.dtype)
        tokens = run.block.ln_1(run.tokens).expand(-1, query.shape[1], -1)
        keys = torch.cat([key, tokens])
        queries = torch.cat([query, tokens]) if run.carrying else query
        if (mask := self.mask(run, kwargs.get("attn_mask"))) is not None:
            kwargs = kwargs | {"attn_mask": mask[: len(queries)]}
        return (queries, keys, keys), kwargs

    def mask(self, run: _Pass, mask: Tensor | None) -> Tensor | None:
        """The host's mask, extended by the tokens."""
        if mask is None:
            return None
        raise InjectionError(
            f"the blocks of {self.name} mask their attention: CasPL does not know what tokens may see there"
        )

    def split(self, attn: nn.Module, args, output):
        """Hook, behind a block's attention: the host gets its own rows, the tokens pass through the rest of the block."""
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
    """The text encoder's hooks.

    Args:
        name, depth, tokens: as for `_Tower`.
        ahead: how many of the host's tokens stand ahead of the boosting prompt, SOS counted.
    """

    kind = "text"

    def __init__(self, name: str, depth: int, tokens: int, ahead: int):
        super().__init__(name, depth, tokens)
        self.ahead = ahead

    def begin(self, encoder: nn.Module, tokens: Tensor) -> _Pass:
        """The layer-0 tokens get positions; what stands behind them moves back, padding at the end aside."""
        position, behind = encoder.positional_embedding, self.ahead + self.tokens
        moved = position[behind:] - position[self.ahead : len(position) - self.tokens]
        shift = torch.cat([torch.zeros_like(position[: self.ahead]), moved, torch.zeros_like(position[: self.tokens])])
        return _Pass(self, (tokens + position[self.ahead : behind])[:, None], shift)

    def mask(self, run: _Pass, mask: Tensor | None) -> Tensor | None:
        """The causal mask (T + n, T + n), the tokens last: they stand between the host's `ahead` first and its others."""
        if run.mask is not None:
            return run.mask
        if mask is None or mask.dim() != 2:
            raise InjectionError(f"the blocks of {self.name} have no causal mask (T, T), as CLIP's text tower has")
        host = len(mask)
        hidden = torch.zeros(host + self.tokens, host + self.tokens, dtype=torch.bool, device=mask.device)
        hidden[: self.ahead, host:] = True
        hidden[host:, self.ahead : host] = True
        hidden[host:, host:] = torch.ones_like(hidden[host:, host:]).triu(1)
        if mask.dtype != torch.bool:
            hidden = torch.zeros_like(hidden, dtype=mask.dtype).masked_fill(hidden, float("-inf"))
        hidden[:host, :host] = mask
        run.mask = hidden
        return hidden
