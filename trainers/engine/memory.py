"""Estimate how many classes fit into memory at once."""

import logging
import math
import os
from pathlib import Path

import torch

from .blocks import StockModule
from .layout import TextLayout
from .paths import minimizes_launches

logger = logging.getLogger(__name__)

SHARE = 0.6  # share of the free memory for the class suffixes; the rest is for everything computed after them


def free_bytes(device: torch.device) -> int | None:
    """Return the free memory in bytes, or None if it cannot be determined.

    Args:
        device: a GPU, whose free memory includes PyTorch's unused reserve; or the CPU, for main memory.
    """
    if device.type == "meta":  # nothing is computed
        return None
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserve
    table = Path("/proc/meminfo")
    if table.is_file():
        sizes = dict(line.split(":") for line in table.read_text().splitlines())
        return int(sizes["MemAvailable"].split()[0]) * 1024
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):  # not on Windows
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return None


def suffix_bytes(model: StockModule, rows: int, places: int, keys: int, images: int, training: bool) -> int:
    """Estimate the peak memory of the suffixes in bytes.

    In training every block saves tensors for its backward pass: for each row the inputs of both LayerNorms (in float32),
    the attention output and the MLP's hidden units (4 d). On a CPU, each position of the grid adds queries, keys, values
    and attention weights; on a GPU, each row adds queries, and keys and values up to twice. In evaluation the tensors of
    one block count twice.

    Args:
        model: `clip.model.CLIP`.
        rows: number of computed tokens.
        places: number of positions of the grid (see `Rows`).
        keys: number of tokens that one token attends to.
        images: number of images with separate texts (CoCoOp), else 1.
        training: whether a backward pass follows.
    """
    d, heads = model.ln_final.weight.shape[0], model.transformer.resblocks[0].attn.num_heads
    size = model.text_projection.element_size()
    block = rows * (2 * d * 4 + (1 + 4) * d * size)
    if minimizes_launches(model.positional_embedding.device):
        block += rows * 5 * d * size
    else:
        block += places * (3 * d * size + heads * keys * (4 + size))
    return images * block * (len(model.transformer.resblocks) if training else 2)


def classes_at_a_time(model: StockModule, layout: TextLayout, images: int = 1, training: bool = True) -> int | None:
    """Return the number of classes that `encode_text` should compute at once.

    Args:
        model: `clip.model.CLIP`.
        layout: the sequences of C classes.
        images: number of images with separate texts (CoCoOp), else 1.
        training: whether a backward pass follows.

    Returns:
        A number from 1 to C - 1, or None if all classes fit into the free memory or it cannot be determined.
    """
    rows = layout.rows()
    free = free_bytes(rows.of.device)
    if free is None:
        return None
    how = len(layout.prefix) + layout.longest, images, training
    total = suffix_bytes(model, len(rows.words), len(rows.of), *how)
    if total <= SHARE * free:
        return None
    one = suffix_bytes(model, layout.longest, layout.longest, *how)
    fitting = max(1, min(len(layout) - 1, int(SHARE * free / one)))
    chunks = math.ceil(len(layout) / fitting)
    fitting = math.ceil(len(layout) / chunks)  # chunks of nearly equal size
    logger.info(
        "Class features: %d classes need %.1f GB and %.1f GB are free; computing %d classes at a time%s",
        *(len(layout), total / 1e9, free / 1e9, fitting),
        ", again in the backward pass" if training else "",
    )
    return fitting
