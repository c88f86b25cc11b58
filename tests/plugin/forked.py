"""Hosts of other toolboxes next to our own, for tests of the injection."""

import itertools

import torch
from interop.forks import Fork
from random_weights import Spec, clip_state_dict, randn

from trainers.backbones import build_clip, tokenizer
from trainers.engine import PromptGroup
from trainers.engine.tokens import EOT, SOS
from trainers.hosts import cocoop, coop, maple, promptsrc

LAYERS = 3
SMALL = Spec(vision_width=64, text_width=64, embed_dim=32, vision_layers=LAYERS, text_layers=LAYERS, patch=8, grid=2)
DEPTHS = [pair for pair in itertools.product(range(LAYERS + 1), repeat=2) if any(pair)]  # text, vision
NAMES = ["tree", "golden retriever dog", "a", "Boeing 737-800", "hot_air_balloon festival at night"]
PHOTO = "a photo of a"
IMAGES = randn(1, "images", (2, 3, SMALL.image, SMALL.image))
LABELS = torch.tensor([3, 1])
# Two float32 computations of the same logits, which a scale of 100 spreads over some 50.
LOGITS = 1e-4


def stock():
    """Return a small CLIP."""
    tokens = {SOS, EOT} | {t for name in NAMES for t in tokenizer().encode(f"X {PHOTO} {name.replace('_', ' ')}.")}
    return build_clip(clip_state_dict(SMALL, 3, tokens))


def make(host, clip_model, **options):
    """Return our own model of a host, and its counterpart in another toolbox with the same parameters."""
    torch.manual_seed(0)
    if host == "CoOp":
        native, n_ctx, words = coop.build(clip_model, NAMES, 4, **options), 4, ""
    elif host == "CoCoOp":
        native, n_ctx, words = cocoop.build(clip_model, NAMES, 4), 4, ""
    elif host == "MaPLe":  # its context takes two of the words, the other two stay
        native, n_ctx, words = maple.build(clip_model, NAMES, 2, PHOTO, 2), 2, PHOTO
    else:
        native, n_ctx, words = (
            promptsrc.build(clip_model, NAMES, 3, 2, PHOTO, 2, 3, templates=[PHOTO + " {}."]),
            2,
            PHOTO,
        )
    fork = Fork(host, native, NAMES, n_ctx, words, options.get("class_token_position", "end"))
    learned = {id(parameter) for parameter in native.prompt_learner.parameters()}
    for parameter in itertools.chain(native.parameters(), fork.parameters()):
        parameter.requires_grad_(id(parameter) in learned)
    return native, fork


def boosting(text=(2, 5), vision=(2, 3)):
    """Return a boosting prompt with the depth and number of tokens of each tower."""
    layers = [randn(2, name, (*shape, 64), 0.3) for name, shape in (("text", text), ("vision", vision))]
    return PromptGroup(*layers).freeze()


@torch.no_grad()
def logits(model):
    return model(IMAGES)


def shape_of(model):
    """Return the names and numbers of everything that an injection adds to."""
    hooks = [(m._forward_hooks, m._forward_pre_hooks, m._forward_hooks_with_kwargs) for m in model.modules()]
    names = [
        sorted(dict(named)) for named in (model.named_buffers(), model.named_parameters(), model.state_dict().items())
    ]
    return names, [[len(each) for each in module] for module in hooks]
