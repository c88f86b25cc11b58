"""Writes the logits of a checkout's own models with the weights of parity fixtures: plain, with the boosting prompt
brought in, and with it taken out again.

    cd CHECKOUT; python -m interop.logits OUT.npz CTX_INIT FIXTURE.npz...

Float32 throughout, as the fixtures were computed: what the checkout halves stays whole.
"""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
from interop import drive
from torch import nn

ORDERS = ("host_first", "boosting_first")
SETTINGS = {
    "coop": lambda meta: {"COOP.N_CTX": meta["n_ctx"]},
    "cocoop": lambda meta: {"COCOOP.N_CTX": meta["n_ctx"]},
    "maple": lambda meta: {"MAPLE.N_CTX": meta["n_ctx"], "MAPLE.PROMPT_DEPTH": meta["depth"]},
    "promptsrc": lambda meta: {
        **{f"PROMPTSRC.N_CTX_{tower}": meta["n_ctx"] for tower in ("TEXT", "VISION")},
        **{f"PROMPTSRC.PROMPT_DEPTH_{tower}": meta["depth"] for tower in ("TEXT", "VISION")},
    },
}


def stay_in_float32(clip_module):
    """Nothing is rounded to float16."""
    torch.Tensor.half, nn.Module.half = torch.Tensor.float, nn.Module.float
    clip_module.model.convert_weights = lambda model: None


def build(module, kind, meta, words, state):
    """The checkout's `CustomCLIP` for a fixture, on a CLIP with the weights `state`."""
    from clip import clip
    from dassl.config import get_cfg_default

    from train import extend_cfg

    file = Path("fixture.pt")
    torch.save(state, file)
    clip._MODELS["small"], clip._download = str(file), lambda url: url
    cfg = get_cfg_default()
    extend_cfg(cfg)
    options = {f"TRAINER.{key}": value for key, value in SETTINGS[kind](meta).items()}
    options |= {f"TRAINER.{kind.upper()}.PREC": "fp32", f"TRAINER.{kind.upper()}.CTX_INIT": words}
    options |= {"MODEL.BACKBONE.NAME": "small", "INPUT.SIZE": (64, 64)}
    cfg.merge_from_list([item for pair in options.items() for item in pair])
    if kind == "promptsrc":
        del module.IMAGENET_TEMPLATES[1:]  # for its losses, which are not looked at here
    return module.CustomCLIP(cfg, meta["classes"], module.load_clip_to_cpu(cfg)).float().eval()


@torch.no_grad()
def fill(model, kind, meta, randn):
    """Draw the host's parameters from their names."""
    if kind == "promptsrc":
        text, image = model.text_encoder, model.image_encoder
        prompts = {"text.0": model.prompt_learner.ctx, "vision.0": image.VPT}
        for i in range(1, meta["depth"]):
            prompts |= {f"text.{i}": text.transformer.resblocks[i].VPT_shallow}
            prompts |= {f"vision.{i}": image.transformer.resblocks[i].VPT_shallow}
    else:
        prompts = dict(model.prompt_learner.named_parameters())
    for name, parameter in prompts.items():
        large = (kind == "cocoop" and name != "ctx") or (kind == "maple" and name.endswith("weight"))
        parameter.copy_(randn(meta["seed"], f"{kind}.{name}", parameter.shape, 0.05 if large else 0.02))


def boosting(meta, randn):
    """The fixture's boosting prompt."""
    from caspl.engine import PromptGroup

    layers = {
        tower: [
            randn(meta["seed"], f"boost.{tower}.{i}", (meta["boost_n"], width), 0.02)
            for i in range(meta["boost_depth"])
        ]
        for tower, width in (("text", 512), ("vision", 768))
    }
    return PromptGroup(torch.stack(layers["text"]), torch.stack(layers["vision"])).freeze()


@torch.no_grad()
def logits_of(file, words):
    """All logits of one fixture. The host's texts start with `words` where its context leaves some over."""
    from caspl.backbones import tokenizer
    from caspl.engine.tokens import EOT, SOS
    from caspl.plugin.inject import inject
    from random_weights import STUDENT, clip_state_dict, randn

    meta = json.loads(str(np.load(file)["meta"]))
    kind, names = meta["kind"].removeprefix("caspl_"), [name.replace("_", " ") for name in meta["classes"]]
    tokens = {token for name in names for token in tokenizer().encode(f"X a photo of a {name}.")}
    module = importlib.import_module(f"trainers.{kind}")
    model = build(module, kind, meta, words, clip_state_dict(STUDENT, meta["seed"], {SOS, EOT} | tokens))
    fill(model, kind, meta, randn)
    images = randn(meta["seed"], "images", (meta["batch"], 3, STUDENT.image, STUDENT.image))
    found, keys = {"plain": model(images)}, list(model.state_dict())
    for order in ORDERS:
        injection = inject(model, boosting(meta, randn), order)
        found[order] = model(images)
        assert list(model.state_dict()) == keys
        injection.remove()
        found[f"{order}.removed"] = model(images)
    return {name: logits.numpy() for name, logits in found.items()}


if __name__ == "__main__":
    drive.prepare()
    import caspl  # noqa: F401
    import clip

    stay_in_float32(clip)
    target, words, *files = sys.argv[1:]
    found = {f"{Path(file).stem}/{name}": logits for file in files for name, logits in logits_of(file, words).items()}
    np.savez(target, **found)
