"""Numbers to compute with: float32, float16, bfloat16 and automatic mixed precision, on a GPU and on a CPU."""

import contextlib
import logging
from dataclasses import dataclass

import torch
from torch import nn

logger = logging.getLogger(__name__)

NAMES = ("fp32", "fp16", "bf16", "amp", "fp16_published")


@dataclass(frozen=True)
class Precision:
    """How a trainer computes.

    Attributes:
        name: as asked for, or "fp32" where the device could not do that.
        weights: dtype of CLIP's frozen weights (its LayerNorms stay in float32, as in OpenAI's `convert_weights`).
        prompts: dtype of the learned parameters, and so of the optimiser's state.
        autocast: dtype that autocasting computes in, None without it.
        scaled: whether the loss is scaled against float16's underflow.
    """

    name: str
    weights: torch.dtype = torch.float32
    prompts: torch.dtype = torch.float32
    autocast: torch.dtype | None = None
    scaled: bool = False

    def context(self, device: torch.device) -> contextlib.AbstractContextManager:
        """The context to compute the forward pass in."""
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=self.autocast)


def choose(name: str, device: torch.device) -> Precision:
    """The precision behind a value of `PREC`.

    "fp16" and "bf16" keep CLIP's weights in half precision and the prompts in float32; "amp" keeps everything in float32
    and autocasts (float16 with a scaled loss on a GPU, bfloat16 on a CPU); "fp16_published" keeps the prompts and the
    optimiser's state in float16 too, as the published recipes do. A CPU without instructions for the type computes in
    float32 instead, with a warning.

    Raises:
        ValueError: an unknown name.
    """
    if name not in NAMES:
        raise ValueError(f"PREC is {name!r}, expected one of {', '.join(NAMES)}")
    half = torch.bfloat16 if name == "bf16" or (name == "amp" and device.type == "cpu") else torch.float16
    if name != "fp32" and device.type == "cpu" and not cpu_computes(half):
        logger.warning("This CPU has no %s arithmetic: PREC %s is computed in float32", half, name)
        name = "fp32"
    if name == "fp32":
        return Precision("fp32")
    if name == "amp":
        return Precision("amp", autocast=half, scaled=half == torch.float16)
    return Precision(name, weights=half, prompts=half if name == "fp16_published" else torch.float32)


def cpu_computes(dtype: torch.dtype) -> bool:
    """Whether this CPU has instructions for a half-precision type (without them it is emulated, many times slower)."""
    native = {torch.float16: "_is_mkldnn_fp16_supported", torch.bfloat16: "_is_mkldnn_bf16_supported"}[dtype]
    check = getattr(torch.ops.mkldnn, native, None)
    return bool(check is not None and torch.backends.mkldnn.is_available() and check())


def cast_clip(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast a CLIP's weights in place; LayerNorms and the logit scale stay in float32."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not isinstance(module, nn.LayerNorm | nn.BatchNorm2d) and name != "logit_scale":
                parameter.data = parameter.data.to(dtype)
    return model
