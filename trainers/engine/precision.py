"""Precision modes: float32, float16, bfloat16 and automatic mixed precision, on GPUs and CPUs."""

import contextlib
import logging
from dataclasses import dataclass

import torch
from torch import nn

logger = logging.getLogger(__name__)

NAMES = ("fp32", "fp16", "bf16", "amp", "fp16_published")


@dataclass(frozen=True)
class Precision:
    """The dtypes of a trainer.

    Attributes:
        name: the requested mode, or "fp32" if the device does not support it.
        weights: dtype of CLIP's frozen weights (LayerNorms stay in float32, as in OpenAI's `convert_weights`).
        prompts: dtype of the learned parameters and of the optimiser's state.
        autocast: dtype of autocasting; None disables it.
        scaled: whether the loss is scaled, to prevent underflow in float16.
    """

    name: str
    weights: torch.dtype = torch.float32
    prompts: torch.dtype = torch.float32
    autocast: torch.dtype | None = None
    scaled: bool = False

    def context(self, device: torch.device) -> contextlib.AbstractContextManager:
        """Return the context manager for the forward pass on this device."""
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=self.autocast)


def choose(name: str, device: torch.device) -> Precision:
    """Return the precision of a mode.

    A CPU without instructions for it falls back to float32 with a warning.

    Args:
        name: "fp32"; "fp16" or "bf16", which store CLIP's weights in half precision and the prompts in float32; "amp",
            which stores everything in float32 and autocasts (float16 with a scaled loss on a GPU, bfloat16 on a CPU); or
            "fp16_published", which also stores the prompts and the optimiser's state in float16, as the published
            recipes do.
        device: the device that computes.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in NAMES:
        raise ValueError(f"precision: {name!r}; expected one of {', '.join(NAMES)}")
    half = torch.bfloat16 if name == "bf16" or (name == "amp" and device.type == "cpu") else torch.float16
    if name != "fp32" and device.type == "cpu" and not cpu_computes(half):
        logger.warning("Precision %s: this CPU lacks %s arithmetic; computing in float32", name, half)
        name = "fp32"
    if name == "fp32":
        return Precision("fp32")
    if name == "amp":
        return Precision("amp", autocast=half, scaled=half == torch.float16)
    return Precision(name, weights=half, prompts=half if name == "fp16_published" else torch.float32)


def cpu_computes(dtype: torch.dtype) -> bool:
    """Check whether this CPU has instructions for a half-precision dtype.

    Emulation is many times slower.
    """
    native = {torch.float16: "_is_mkldnn_fp16_supported", torch.bfloat16: "_is_mkldnn_bf16_supported"}[dtype]
    check = getattr(torch.ops.mkldnn, native, None)
    return bool(check is not None and torch.backends.mkldnn.is_available() and check())


def cast_clip(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast a CLIP's weights in place and return it.

    Normalisation layers and the logit scale stay in float32.
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not isinstance(module, nn.LayerNorm | nn.BatchNorm2d) and name != "logit_scale":
                parameter.data = parameter.data.to(dtype)
    return model
