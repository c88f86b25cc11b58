"""Compare the engine with the plain definition for CLIPs that differ from OpenAI's in activation and sizes."""

import pytest
import torch
from clip.model import CLIP
from plain import image_features, text_features
from random_weights import randn
from test_engine import agree, path, stack
from torch import nn

from trainers.engine import Learner, PromptedCLIP, encode_image, encode_text, host_texts, layout_of
from trainers.engine.kernels import mlp
from trainers.engine.symbols import arrange, slots
from trainers.engine.tokens import BOOSTING

__all__ = ["path"]  # a fixture
CONTEXT, VOCABULARY = 24, 300
SOS, EOT = VOCABULARY - 2, VOCABULARY - 1
NAMES = ["cat", "cow", "horse"]


def encode(text):
    """Return one token per character."""
    return [ord(letter) for letter in text]


@pytest.fixture(params=["QuickGELU", nn.GELU(), nn.GELU(approximate="tanh")], ids=str)
def clip_model(request):
    """Build a CLIP with another activation, heads of 32 channels, 24 positions and 300 tokens."""
    torch.manual_seed(0)
    model = CLIP(32, 16, 2, 64, 8, CONTEXT, VOCABULARY, 64, 2, 3).float().requires_grad_(False).eval()
    for transformer in (model.transformer, model.visual.transformer):
        for block in transformer.resblocks:
            block.attn.num_heads, block.attn.head_dim = 2, 32
            if request.param != "QuickGELU":
                block.mlp.gelu = request.param
    return model


def test_text_matches_plain(clip_model):
    stacks = [stack("host", 2, 4), stack("boost", 3, 3)]
    texts = host_texts(encode, NAMES, 4, eot=EOT)
    sequences = [(SOS, *arrange(text, slots(BOOSTING, 3), "host_first")) for text in texts]
    layout = layout_of(texts, 3, "host_first", context_length=CONTEXT, sos=SOS)
    plain = text_features(clip_model, sequences, stacks)
    agree(encode_text(clip_model, layout, stacks)[0], plain, stacks[0] + stacks[1])


def test_vision_matches_plain(clip_model):
    stacks = [stack("host", 1, 2), stack("boost", 2, 3)]
    images = randn(5, "images", (2, 3, 16, 16)).requires_grad_()
    plain = image_features(clip_model, images, stacks)
    agree(encode_image(clip_model.visual, images, stacks), plain, [*stacks[0], *stacks[1], images])
    with torch.no_grad():
        torch.testing.assert_close(encode_image(clip_model.visual, images, stacks), plain, atol=1e-5, rtol=1e-5)


def test_model_uses_tower_sizes(clip_model):
    model = PromptedCLIP(clip_model, Learner(), host_texts(encode, NAMES, 0, eot=EOT))
    plain = text_features(clip_model, [(SOS, *encode(f"{name}."), EOT) for name in NAMES], [])
    torch.testing.assert_close(model.class_features(), nn.functional.normalize(plain, dim=-1), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="too long, 31 tokens.* at most 24"):
        PromptedCLIP(clip_model, Learner(), host_texts(encode, ["x" * 28], 0, eot=EOT))


def test_unknown_activation_raises(clip_model):
    block = clip_model.transformer.resblocks[0].mlp
    block.gelu = nn.ReLU()
    with pytest.raises(ValueError, match="MLP activation: ReLU; expected QuickGELU or GELU"):
        mlp(block, torch.zeros(1, 64))
