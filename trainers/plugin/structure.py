"""Find CLIP's two towers in a model by structure, not by the names of attributes.

A tower is a sequence of blocks with an attention, two norms and an MLP. The vision tower has a norm before its first
block; the text tower has a table of positions. Both may be flat attributes of the model, modules a few levels down, or
inside an `nn.DataParallel`.

The towers of the CoOp family (github.com/KaiyangZhou/CoOp), of OpenAI's `clip`, of open_clip, of Hugging Face's
`CLIPModel` and of timm's ViT are found.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

FAMILY = {"vision": "image_encoder", "text": "text_encoder"}  # the CoOp family's attributes for the two towers
_STACKS = ("resblocks", "layers", "blocks")
_DEEPEST = 6  # levels below the model that are searched
_VIT = "choose a ViT as MODEL.BACKBONE.NAME"


class HostError(ValueError):
    """A model that the boosting prompt cannot be brought into.

    The message contains the module and the reason.
    """


class PartError(HostError):
    """A part of a block that cannot be served.

    The message is the reason alone (see `naming`).
    """


class NoTower(HostError):
    """The model has no tower of a kind that the boosting prompt has tokens for."""

    def __init__(self, message: str, kind: str):
        super().__init__(message)
        self.kind = kind


class NeverRan(HostError):
    """The model has a tower that its forward pass does not use."""

    def __init__(self, message: str, kind: str):
        super().__init__(message)
        self.kind = kind


class BlockNames(NamedTuple):
    """Attribute names of a block's parts."""

    attn: str
    norm_1: str
    norm_2: str
    mlp: str


_BLOCKS = (
    BlockNames("attn", "ln_1", "ln_2", "mlp"),  # OpenAI's clip, its forks, open_clip
    BlockNames("self_attn", "layer_norm1", "layer_norm2", "mlp"),  # Hugging Face
    BlockNames("attn", "norm1", "norm2", "mlp"),  # timm
)


@dataclass
class Tower:
    """One of CLIP's towers inside a model.

    Attributes:
        kind: "vision" or "text".
        path: its place in the model, for messages.
        door: the module whose forward pass is one use of the tower; tokens enter nowhere else.
        inner_door: the module around the blocks, used where the model calls the tower without calling `door`.
        owner: the module that has the tower's other parts: the norm before the blocks, or the table of positions.
        blocks: the L blocks.
        names: the names of a block's parts.
        entry: vision: the norm between the positions and the first block.
        positions: text: path of the table of positions (T, d) below `owner`; inside: path of `owner` below `door`, None if
            it is not inside.
        embedding: text: the token embedding, None if the model does not keep it.
    """

    kind: str
    path: str
    door: nn.Module
    inner_door: nn.Module
    owner: nn.Module
    blocks: nn.Sequential | nn.ModuleList
    names: BlockNames
    entry: nn.Module | None = None
    positions: str = ""
    inside: str | None = None
    embedding: nn.Embedding | None = None

    @property
    def width(self) -> int:
        """Channels d of the tower."""
        return getattr(self.blocks[0], self.names.norm_1).weight.shape[0]

    def table(self, door: nn.Module | None = None) -> Tensor:
        """Return the table of positions (T, d) of a text tower.

        It is that of the replica that `door` belongs to, if it is given.
        """
        if door is None or self.inside is None:
            return look_up(self.owner, self.positions)
        return look_up(door, f"{self.inside}.{self.positions}".lstrip("."))


@contextlib.contextmanager
def naming(tower: Tower, index: int) -> Iterator[None]:
    """Add the block and a remedy to a `PartError`."""
    try:
        yield
    except PartError as error:
        kind = tower.kind
        raise HostError(
            f"{tower.path}: block {index} ({type(tower.blocks[index]).__name__}): {error}. Use a boosting prompt without "
            f"{kind} tokens (DEPTH_{kind.upper()} 0)"
        ) from error


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside an `nn.DataParallel`."""
    return model.module if isinstance(model, nn.DataParallel) else model


def look_up(owner: Any, path: str) -> Any:
    """Return the attribute at a dotted path, None if there is none."""
    for name in path.split("."):
        owner = getattr(owner, name, None)
    return owner


def find_towers(model: nn.Module, kinds: Sequence[str] = ("vision", "text")) -> dict[str, Tower]:
    """Find the towers of a model.

    Args:
        model: the model, or an `nn.DataParallel` around it.
        kinds: which towers are needed.

    Returns:
        kind -> tower. Towers that are not needed are left out.

    Raises:
        HostError: a needed tower is missing, ambiguous, or of a kind without tokens (a ResNet).
    """
    model = unwrap(model)
    found = list(_walk(model))
    return {kind: _choose(model, kind, [tower for tower in found if tower.kind == kind]) for kind in kinds}


def _walk(model: nn.Module) -> Iterator[Tower]:
    """Yield every tower of the model, once for each path that leads to it."""
    trails = [[("", model)]]
    while trails:
        trail = trails.pop(0)
        tower = _tower(trail)
        if tower is not None:
            yield tower
        elif len(trail) <= _DEEPEST and _names(trail[-1][1]) is None:
            trails += [[*trail, child] for child in trail[-1][1].named_children()]


def _tower(trail: list[tuple[str, nn.Module]]) -> Tower | None:
    """Return the tower whose blocks are at the end of a trail of (name, module), None if these are no blocks."""
    blocks = trail[-1][1]
    names = _names(blocks)
    if names is None or not isinstance(blocks, nn.Sequential | nn.ModuleList):
        return None
    width = getattr(blocks[0], names.norm_1).weight.shape[0]
    modules = [module for _, module in trail]
    parts = [name for name, module in trail[1:] if not isinstance(module, nn.DataParallel)]
    above = [(i, _entry(m, width), _positions(m, width)) for i, m in enumerate(modules[:-1])]
    kind = _kind(blocks, parts, above)
    place = {"vision": 1, "text": 2}[kind]
    owner = next((i for i, *traits in reversed(above) if traits[place - 1]), None)
    if owner is None:
        return None
    tower = Tower(
        kind,
        ".".join(name for name, _ in trail[1:]) or "the model",
        _door(trail, owner, kind),
        modules[-2] if trail[-1][0] in _STACKS and len(modules) > 2 else modules[-1],
        modules[owner],
        blocks,
        names,
    )
    if isinstance(tower.inner_door, nn.ModuleList):  # it is never called
        tower.inner_door = modules[-2]
    if kind == "vision":
        tower.entry = getattr(modules[owner], above[owner][1])
    else:
        tower.positions, tower.embedding = above[owner][2], _embedding(modules[: owner + 1], width)
        places = {id(module): name for name, module in tower.door.named_modules()}
        tower.inside = places.get(id(tower.owner))
    return tower


def _names(stack: nn.Module) -> BlockNames | None:
    """Return the names of the blocks' parts if `stack` is a sequence of blocks."""
    if not isinstance(stack, nn.Sequential | nn.ModuleList) or not len(stack):
        return None
    for names in _BLOCKS:
        if all(isinstance(getattr(block, name, None), nn.Module) for block in stack for name in names):
            return names
    return None


def _entry(module: nn.Module, width: int) -> str:
    """Return the name of the norm before the blocks ("ln_pre", "pre_layrnorm", "norm_pre", ...)."""
    for name, child in module.named_children():
        weight = getattr(child, "weight", None)
        fits = isinstance(child, nn.Identity) or (isinstance(weight, Tensor) and weight.shape == (width,))
        if fits and "pre" in name.split("_"):
            return name
    return ""


def _positions(module: nn.Module, width: int) -> str:
    """Return the path of a table of positions (T, d), the one that is named after texts if there are several."""
    tables = [
        name
        for name, value in [*module.named_parameters(recurse=False), *vars(module).items()]
        if "pos" in name and isinstance(value, Tensor) and value.dim() == 2 and value.shape[1] == width
    ]
    if not tables:
        inner = "embeddings.position_embedding.weight"  # Hugging Face
        table = look_up(module, inner)
        return inner if isinstance(table, Tensor) and table.shape[-1] == width else ""
    return min(tables, key=lambda name: "text" not in name)


def _embedding(modules: list[nn.Module], width: int) -> nn.Embedding | None:
    """Return the token embedding nearest to the tower."""
    for module in reversed(modules):
        inner = getattr(module, "embeddings", None)
        for child in [*module.children(), *(inner.children() if isinstance(inner, nn.Module) else ())]:
            if isinstance(child, nn.Embedding) and child.embedding_dim == width and child.num_embeddings > 256:
                return child
    return None


def _kind(blocks: nn.Sequential | nn.ModuleList, parts: list[str], above: list) -> str:
    """Tell a text tower from a vision tower: by its mask, by the parts next to it, by its name."""
    mask = getattr(blocks[0], "attn_mask", None)
    if isinstance(mask, Tensor) and is_causal(mask):
        return "text"
    for _, entry, positions in reversed(above):
        if entry and positions and any(word in part for part in parts for word in ("text", "txt")):
            return "text"
        if entry:
            return "vision"
        if positions:
            return "text"
    return "text" if any("text" in part for part in parts) else "vision"


def is_causal(mask: Tensor) -> bool:
    """Whether the first row of a mask (..., T, T) sees its own token and no later one."""
    row = mask.reshape(-1, mask.shape[-1])[0]
    if row.dtype == torch.bool:
        return bool((row[1:] != row[0]).all())
    return bool(row[0] == 0 and (row[1:] < -1e4).all())


def _door(trail: list[tuple[str, nn.Module]], owner: int, kind: str) -> nn.Module:
    """Return the module whose forward pass is one use of the tower.

    It is the family's encoder where there is one; else the tower's owner, unless that is the model itself or has the
    other tower too (a whole CLIP), whose forward pass is not one tower's.
    """
    for i in range(1, len(trail) - 1):
        if trail[i][0] == FAMILY[kind]:
            return unwrap(trail[i][1])
    module = trail[owner][1]
    whole = owner == 0 or any(hasattr(module, name) for name in ("visual", "vision_model"))
    stack = trail[-1][1]
    if not whole:
        return module
    inner = trail[-2][1] if trail[-1][0] in _STACKS and len(trail) > 2 else stack
    return module if isinstance(inner, nn.ModuleList) else inner


def _choose(model: nn.Module, kind: str, towers: list[Tower]) -> Tower:
    """Return the one tower of a kind that the model uses: the family's, else the only one, else the nearest."""
    name = type(model).__name__
    family = [tower for tower in towers if tower.path.split(".")[0] == FAMILY[kind]]
    towers = family or towers
    if not towers:
        raise NoTower(_missing(model, kind), kind)
    depth = min(tower.path.count(".") for tower in towers)
    nearest = [tower for tower in towers if tower.path.count(".") == depth]
    if len({id(tower.blocks) for tower in nearest}) > 1:
        places = ", ".join(tower.path for tower in nearest)
        raise HostError(
            f"{name}: found {len(nearest)} {kind} towers ({places}); expected one. Call the one that shall get the "
            f"boosting prompt {FAMILY[kind]}"
        )
    return nearest[0]


def _missing(model: nn.Module, kind: str) -> str:
    """Return the message about a model without a tower of a kind."""
    name, encoder = type(model).__name__, FAMILY[kind]
    visual = getattr(model, encoder, getattr(model, "visual", None))
    if kind == "vision" and visual is not None and hasattr(visual, "layer1"):
        return f"{name}: the image encoder is a {type(visual).__name__}, which has no vision tokens; expected a ViT. {_VIT}"
    near = unwrap(visual) if isinstance(visual, nn.Module) else model
    parts = ", ".join(f"{part} ({type(child).__name__})" for part, child in near.named_children()) or "no modules"
    return (
        f"{name}: no {kind} tower found; expected blocks with attn, ln_1, ln_2 and mlp next to "
        f"{'a norm ln_pre' if kind == 'vision' else 'a table positional_embedding'}. "
        f"{encoder if near is not model else name} has {parts}"
    )
