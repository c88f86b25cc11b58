"""Stock CLIP models, from files in OpenAI's layout (github.com/openai/CLIP) or from other libraries' CLIPs.

The model classes are those of the importable `clip` package, OpenAI's own or one of the family's forks; the model is
always the stock one.
"""

import hashlib
import inspect
import logging
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path

import torch
from torch import Tensor, nn

from ..engine import ClipSizes, clip_sizes
from ..engine.blocks import StockModule
from .errors import BackboneError, check_finite
from .files import find_weights, read_backbone
from .function import HEAD_WIDTH, Function, TowerFunction, recorded_function
from .package import clip_package
from .source import describe_function, source_of

logger = logging.getLogger(__name__)

_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # constants in OpenAI's archives
# `design_details` that make the MaPLe and PromptSRC forks of `clip` build stock blocks.
STOCK_DESIGN = {
    "trainer": "CoOp",
    "vision_depth": 0,
    "language_depth": 0,
    "vision_ctx": 0,
    "language_ctx": 0,
}

# Builds a model in place of a file's; see `weightless`.
stand_in: ContextVar[Callable[[str], StockModule | None] | None] = ContextVar("stand_in", default=None)


def load_clip(name: str) -> StockModule:
    """Load a frozen stock CLIP in float32 and eval mode, on the CPU.

    Args:
        name: a name of OpenAI's ("ViT-B/16"; downloaded by the `clip` package into ~/.cache/clip), the path of a
            checkpoint in OpenAI's layout (TorchScript archive, state dict or safetensors), "shapes-student",
            "shapes-student-tokens", "shapes-teacher", "open_clip:<architecture>/<tag or file>", "open_clip:<folder>", or
            a Hugging Face CLIP folder.

    Returns:
        `clip.model.CLIP`, with the attributes `fingerprint`, `described` (what its weights do not determine, as JSON
        stores it), `special_tokens` (ids of the first and the last token of a text) and, if it has its own, `tokenizer`.

    Raises:
        BackboneError: the name is unknown, the download failed, the file is not an intact CLIP, or the engine does not
            compute the model.
    """
    if (build := stand_in.get()) is not None and (model := build(name)) is not None:
        return model
    source = source_of(name)
    if source is None:
        state, recorded = read_backbone(name)
        function, layout = recorded_function(name, recorded), "OpenAI's layout"
    else:
        state, function, layout = source.read(), source.function, f"{source.library}'s layout"
    try:
        model = build_clip(state, function)
    except BackboneError:
        raise
    except Exception as error:  # sizes are read off the tensors, so wrong ones can raise any exception
        raise BackboneError(
            f"backbone {name!r}: not a CLIP in {layout} ({type(error).__name__}: {error}); expected a state dict "
            "with the keys of clip.model.CLIP (visual.*, transformer.*, token_embedding.weight, ...)"
        ) from error
    check_finite(model.state_dict(), f"backbone {name!r}")
    model.fingerprint = fingerprint(*projections(model.visual, model))  # before the weights are cast
    vocabulary = len(model.token_embedding.weight)
    if source is None:
        context = len(model.positional_embedding)
        model.special_tokens = vocabulary - 2, vocabulary - 1
        model.described = describe_function(function, context, vocabulary, model.special_tokens)
    else:
        if (found := clip_sizes(model)) != source.sizes or vocabulary != source.vocabulary:
            raise BackboneError(
                f"backbone {name!r}: {found} and {vocabulary} tokens; expected {source.sizes} and {source.vocabulary}, as its "
                "configuration has"
            )
        model.special_tokens, model.described = source.special_tokens, source.described()
        if source.tokenizer is not None:
            model.tokenizer = source.tokenizer
    logger.info("Loaded CLIP %s: %s, %s", name, describe(model), _computed(function))
    return model


def _computed(function: Function) -> str:
    """Return how both towers are computed, for logs."""
    names = {"quick_gelu": "QuickGELU", "gelu": "GELU", "gelu_tanh": "GELU (tanh)"}
    found = {
        tower: f"heads of {each.head_width} channels, {names[each.activation]}"
        for tower, each in (("vision", function.vision), ("text", function.text))
    }
    return found["text"] if found["text"] == found["vision"] else "; ".join(f"{k}: {v}" for k, v in found.items())


def files_of(name: str) -> tuple[Path, ...]:
    """Return the files that determine a backbone.

    Raises:
        BackboneError: the name is unknown, the download failed, or its configuration cannot be used.
    """
    source = source_of(name)
    return (find_weights(name),) if source is None else source.files


def build_clip(state: dict[str, Tensor], function: Function | None = None) -> StockModule:
    """Build a frozen stock `clip.model.CLIP` in float32, with the sizes of these weights.

    OpenAI's own `build_model` rounds all weights to float16 first; this does not.

    Args:
        state: the weights, in any floating dtype.
        function: what they do not determine; by default that of OpenAI's models.

    Raises:
        KeyError, RuntimeError: keys are missing or unexpected, or tensors have other shapes.
        BackboneError: a tower's width is not a multiple of its head width.
    """
    CLIP = clip_package("model").CLIP
    function = function or Function()
    # a scripted model holds its causal mask as an attribute, which is not a weight
    state = {k: value for k, value in state.items() if k not in _NOT_WEIGHTS and not k.endswith("attn_mask")}
    sizes = _vision_sizes(state) | {
        "embed_dim": state["text_projection"].shape[1],
        "context_length": state["positional_embedding"].shape[0],
        "vocab_size": state["token_embedding.weight"].shape[0],
        "transformer_width": state["ln_final.weight"].shape[0],
        "transformer_heads": _heads(state["ln_final.weight"].shape[0], function.text.head_width),
        "transformer_layers": _count(state, "transformer.resblocks."),
    }
    if function.image_size:
        sizes["image_resolution"] = function.image_size
    if "design_details" in inspect.signature(CLIP.__init__).parameters:
        sizes["design_details"] = STOCK_DESIGN
    with torch.random.fork_rng(devices=[]):  # the initial weights are discarded; the run's seed must not notice
        model = CLIP(**sizes).float()
        _apply(function.text, model.transformer, state, "transformer")
        if hasattr(model.visual, "transformer"):
            _apply(function.vision, model.visual.transformer, state, "visual.transformer")
    for norm, tower in ((model.ln_final, function.text), *_vision_norms(model.visual, function.vision)):
        norm.eps = tower.layer_norm_eps
    unexpected = sorted(state.keys() - model.state_dict().keys())
    if unexpected:  # PyTorch up to 2.3 takes "visual.proj.more" for a part of "visual.proj" and drops it silently
        raise RuntimeError(f"unexpected tensors: {', '.join(unexpected[:5])}")
    model.load_state_dict({key: value.float() for key, value in state.items()})
    return model.requires_grad_(False).eval()


def _apply(function: TowerFunction, transformer: StockModule, state: dict[str, Tensor], prefix: str) -> None:
    """Give a tower's blocks what `clip` fixes: activation, hidden width, head width and the LayerNorms' epsilon."""
    for index, block in enumerate(transformer.resblocks):
        width, hidden = block.attn.embed_dim, len(state[f"{prefix}.resblocks.{index}.mlp.c_fc.bias"])
        block.attn.num_heads = _heads(width, function.head_width)
        block.attn.head_dim = width // block.attn.num_heads
        block.ln_1.eps = block.ln_2.eps = function.layer_norm_eps
        if hidden != block.mlp.c_fc.out_features:
            block.mlp.c_fc, block.mlp.c_proj = nn.Linear(width, hidden), nn.Linear(hidden, width)
        if (activation := function.gelu()) is not None:
            block.mlp.gelu = activation


def _vision_norms(visual: StockModule, function: TowerFunction) -> list[tuple[nn.LayerNorm, TowerFunction]]:
    norms = (getattr(visual, name, None) for name in ("ln_pre", "ln_post"))
    return [(norm, function) for norm in norms if norm is not None]


def state_sizes(state: dict[str, Tensor]) -> ClipSizes:
    """Return the sizes of a CLIP with these weights.

    Raises:
        KeyError, ValueError, IndexError: the weights are not in OpenAI's layout.
    """
    vision = _vision_sizes(state)
    resnet = isinstance(vision["vision_layers"], tuple)
    return ClipSizes(
        text_width=state["ln_final.weight"].shape[0],
        text_layers=_count(state, "transformer.resblocks."),
        vision_width=0 if resnet else vision["vision_width"],
        vision_layers=0 if resnet else vision["vision_layers"],
        embedding=state["text_projection"].shape[1],
        image=vision["image_resolution"],
        context=state["positional_embedding"].shape[0],
    )


def _heads(width: int, head_width: int) -> int:
    if head_width != HEAD_WIDTH and width % head_width:
        raise BackboneError(f"heads of {head_width} channels do not divide a tower's width of {width}")
    return max(1, width // head_width)


def _vision_sizes(state: dict[str, Tensor]) -> dict:
    layers: int | tuple[int, ...]
    if "visual.proj" in state:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
        layers = _count(state, "visual.transformer.resblocks.")
    else:
        width = state["visual.layer1.0.conv1.weight"].shape[0]
        patch, grid = 32, round((state["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
        layers = tuple(_count(state, f"visual.layer{stage}.") for stage in (1, 2, 3, 4))
    return {
        "vision_width": width,
        "vision_layers": layers,
        "vision_patch_size": patch if isinstance(layers, int) else None,
        "image_resolution": patch * grid,
    }


def _count(state: dict[str, Tensor], prefix: str) -> int:
    """Return the number of numbered modules with this prefix."""
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})


def projections(visual: StockModule, text: StockModule) -> tuple[Tensor, Tensor]:
    """Return the projections of both towers into the shared space.

    Args:
        visual: the image encoder, a ViT or a ResNet.
        text: a module with `text_projection`.
    """
    return visual.proj if hasattr(visual, "proj") else visual.attnpool.c_proj.weight, text.text_projection


def fingerprint(visual_projection: Tensor, text_projection: Tensor) -> str:
    """Return the SHA-256 of a CLIP's two projections in float16.

    OpenAI publishes its weights in this dtype.
    """
    digest = hashlib.sha256()
    for weights in (visual_projection, text_projection):
        digest.update(weights.detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()


def describe(model: StockModule) -> str:
    """Return a CLIP's sizes in one line, for logs."""
    sizes = clip_sizes(model)
    vision = f"ViT {sizes.vision_layers} x {sizes.vision_width}" if sizes.vision_layers else "ResNet"
    return f"{vision}, {sizes.image} px; text {sizes.text_layers} x {sizes.text_width}; embedding {sizes.embedding}"
