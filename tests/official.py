"""The checkpoint of the published code's layout in tests/golden, and the CLIP that it was trained around."""

import json

from conftest import ROOT
from random_weights import Spec, clip_state_dict

from trainers.backbones import build_clip, tokenizer
from trainers.engine.tokens import EOT, SOS

OFFICIAL = ROOT / "tests" / "golden" / "official_checkpoint"
EXPECTED = json.loads((OFFICIAL / "expected.json").read_text())
SPEC = Spec(**EXPECTED["spec"])


def official_clip():
    """Return the CLIP that the official checkpoint was trained around."""
    texts = [f"X X X X {name}." for name in EXPECTED["classes"]]
    tokens = {SOS, EOT} | {token for text in texts for token in tokenizer().encode(text)}
    return build_clip(clip_state_dict(SPEC, EXPECTED["seed"], tokens))
