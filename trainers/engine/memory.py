"""How many classes fit into memory at a time."""

import logging
import math
import os
from pathlib import Path

import torch

from .blocks import StockModule
from .layout import TextLayout

logger = logging.getLogger(__name__)

SHARE = 0.6  # of the free memory that the classes may take; the rest is for what comes behind them


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on a GPU (PyTorch's own reserve included) or in this machine; None where nobody tells."""
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserve
    table = Path("/proc/meminfo")
    if table.is_file():
        sizes = dict(line.split(":") for line in table.read_text().splitlines())
        return int(sizes["MemAvailable"].split()[0]) * 1024
    if "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return None


def suffix_bytes(model: StockModule, rows: int, places: int, keys: int, images: int, training: bool) -> int:
    """What suffixes take at their most, for `images` images that have texts of their own.

    In training all blocks keep what their backward pass needs: of each row the two LayerNorms' inputs (in float32), the
    rest of the attention and the MLP's hidden units (4 d), and at each place of the grid queries, keys, values and the
    attention's weights. In evaluation one block's do, twice.

    Args:
        rows: how many tokens are computed; places: how many the grid has (see `Rows`).
        keys: how many tokens one attends to.
    """
    d, heads = model.ln_final.weight.shape[0], model.transformer.resblocks[0].attn.num_heads
    size = model.text_projection.element_size()
    block = rows * (2 * d * 4 + (1 + 4) * d * size) + places * (3 * d * size + heads * keys * (4 + size))
    return images * block * (len(model.transformer.resblocks) if training else 2)


def classes_at_a_time(model: StockModule, layout: TextLayout, images: int = 1, training: bool = True) -> int | None:
    """How many classes `encode_text` should compute at a time: None (all) if they fit into what is free.

    Args:
        images: b, how many images have texts of their own (CoCoOp), else 1.
        training: whether a backward pass follows.

    Returns:
        a number from 1 to C - 1, or None.
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
    fitting = math.ceil(len(layout) / math.ceil(len(layout) / fitting))  # as many chunks, about equally large
    logger.info(
        "%d classes would take %.1f GB of %.1f GB that are free: %d are computed at a time%s",
        *(len(layout), total / 1e9, free / 1e9, fitting),
        ", and again in the backward pass" if training else "",
    )
    return fitting
