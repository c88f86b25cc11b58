"""Compare text tokens that are carried through blocks and replaced later, for each class, with the plain definition."""

import pytest
import torch
from plain import text_features
from test_engine import LAYERS, NAMES, agree, clip_model, encode, path, sequences, stack

from trainers.engine import encode_text, host_texts, layout_of

__all__ = ["clip_model", "path"]  # fixtures


def with_gap(layer):
    """Return the host's layers: shared tokens first, tokens per class at the input of block `layer`."""
    shared, per_class = stack("shared", 1, 4), stack("class", 1, 4, len(NAMES))
    return [*shared, *[None] * (layer - 1), *per_class], shared + per_class


@pytest.mark.parametrize("order", ["boosting_first", "host_first"])
@pytest.mark.parametrize("depth", range(LAYERS + 1))
@pytest.mark.parametrize("layer", range(1, LAYERS))
@pytest.mark.parametrize("chunk", [None, 2])
def test_tokens_replaced_at_a_later_block_match_plain(clip_model, layer, depth, order, chunk):
    own, leaves = with_gap(layer)
    boost = stack("boost", depth, 3)
    texts = host_texts(encode, NAMES, 4, "")
    tokens = 3 if depth else 0
    plain = text_features(clip_model, sequences(texts, tokens, order), [own, boost])
    layout = layout_of(texts, tokens, order, distinct=[0])
    fast = encode_text(
        clip_model, layout, [[None if t is None else t if t.dim() == 2 else t[None] for t in own], boost], chunk
    )
    agree(fast[0], plain, leaves + boost)


def test_gap_in_shared_tokens_is_rejected(clip_model):
    own = [torch.zeros(4, 64), None, torch.zeros(4, 64)]
    layout = layout_of(host_texts(encode, NAMES, 4, ""))
    with pytest.raises(ValueError, match="group 0: a layer of None; expected tokens in all layers"):
        encode_text(clip_model, layout, [own])


def test_first_layer_must_have_tokens(clip_model):
    layout = layout_of(host_texts(encode, NAMES, 4, ""), distinct=[0])
    with pytest.raises(ValueError, match="group 0: 0 text tokens; expected 4"):
        encode_text(clip_model, layout, [[None, torch.zeros(4, 64)]])
