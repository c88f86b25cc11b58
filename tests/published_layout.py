"""Checkpoints in the layout of PromptSRC's repository, which PromptKD's teachers have, written by this project."""

import torch

from trainers.backbones import tokenizer
from trainers.engine.tokens import EOT, SOS


def state_dict(clip_state, text, vision, names, dtype=torch.float32):
    """Return the state dict of a published PromptSRC model.

    Args:
        clip_state: of its CLIP, in OpenAI's layout.
        text: its text prompts, (depth, n, d).
        vision: its vision prompts, (depth, n, d).
        names: its class names.
        dtype: of CLIP's weights.
    """
    table, context = clip_state["token_embedding.weight"], len(clip_state["positional_embedding"])
    rows = [[SOS, *[0] * text.shape[1], *tokenizer().encode(f"{name.replace('_', ' ')}."), EOT] for name in names]
    embedded = torch.stack([table[row + [0] * (context - len(row))] for row in rows])
    state = {
        "prompt_learner.ctx": text[0],
        "prompt_learner.token_prefix": embedded[:, :1],
        "prompt_learner.token_suffix": embedded[:, 1 + text.shape[1] :],
        "image_encoder.VPT": vision[0],
        "logit_scale": clip_state["logit_scale"],
    }
    for key, value in clip_state.items():
        if key.startswith("visual."):
            state[f"image_encoder.{key[7:]}"] = state[f"prompt_learner.ZS_image_encoder.{key[7:]}"] = value.to(dtype)
        elif key not in ("token_embedding.weight", "logit_scale"):
            state[f"text_encoder.{key}"] = value.to(dtype)
    for tower, stack in (("text", text), ("image", vision)):
        for block in range(1, len(stack)):
            state[f"{tower}_encoder.transformer.resblocks.{block}.VPT_shallow"] = stack[block]
    return state
