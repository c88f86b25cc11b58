"""Names, lists, images, and the surroundings."""

import platform
from difflib import SequenceMatcher

import numpy as np
import PIL
import torch
from PIL import Image

__all__ = [
    "check_availability",
    "collect_env_info",
    "describe_choices",
    "get_most_similar_str_to_a_from_b",
    "read_image",
    "tolist_if_not",
]


def get_most_similar_str_to_a_from_b(a, b):
    """The string of list `b` most similar to `a` (of equals the last), or None if `b` is empty."""
    return max(reversed(list(b)), key=lambda candidate: SequenceMatcher(None, a, candidate).ratio(), default=None)


def describe_choices(requested, available):
    """A sentence for an error: `requested` is not there, what is, and which name comes nearest."""
    available = list(available)
    if not available:
        return f'"{requested}" is unknown and so is every name: import the module that registers it'
    nearest = get_most_similar_str_to_a_from_b(requested, available)
    return f'"{requested}" is unknown; did you mean "{nearest}"? Known: {", ".join(available)}'


def check_availability(requested, available):
    """Raise ValueError, listing what exists and the nearest name, unless `requested` is in `available`."""
    if requested not in available:
        raise ValueError(describe_choices(requested, available))


def tolist_if_not(x):
    """`x` if it is a list, else `[x]`."""
    return x if isinstance(x, list) else [x]


def read_image(path):
    """The image in file `path` as an RGB `PIL.Image`; 16 bits a pixel are scaled to 8 (Pillow itself would clip them).

    Raises:
        OSError: the file is missing or not a readable image; the message names it.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG"):
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.mode == "P" and "transparency" in image.info:
                image = image.convert("RGBA")
            return image.convert("RGB")
    except FileNotFoundError:
        raise
    except Image.DecompressionBombError as error:
        raise OSError(f"the image {path} is too large ({error}): shrink it") from error
    except MemoryError as error:
        raise OSError(f"the image {path} does not fit into memory: shrink it") from error
    except Exception as error:  # Pillow reports what is broken in every imaginable way
        raise OSError(
            f"cannot read the image {path}: {error}: fetch it again, or take it out of the data set"
        ) from error


def collect_env_info():
    """Versions of what computes, and the devices, as a string of a few lines."""
    lines = [
        f"Python {platform.python_version()} on {platform.platform()}",
        f"torch {torch.__version__} (CUDA {torch.version.cuda or 'not built in'})",
        f"NumPy {np.__version__}, Pillow {PIL.__version__}",
    ]
    if torch.cuda.is_available():
        lines += [f"GPU {i}: {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    else:
        lines.append(f"no GPU; {torch.get_num_threads()} CPU threads")
    return "\n".join(lines)
