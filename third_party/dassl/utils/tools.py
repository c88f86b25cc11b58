"""Names, images, and versions."""

import os
import platform
from collections.abc import Iterable
from difflib import SequenceMatcher

import numpy as np
import PIL
import torch
from PIL import Image


def describe_choices(requested: str, available: Iterable[str]) -> str:
    """Return a sentence for an error message about an unknown name.

    It has the name, the most similar one, and all known ones.
    """
    known = list(available)
    if not known:
        return f'"{requested}" is unknown and so is every name: import the module that registers it'
    nearest = max(reversed(known), key=lambda candidate: SequenceMatcher(None, requested, candidate).ratio())
    return f'"{requested}" is unknown; did you mean "{nearest}"? Known: {", ".join(known)}'


def check_availability(requested: str, available: Iterable[str]) -> None:
    """Raise ValueError unless `requested` is in `available`.

    The message has the known names and the most similar one.
    """
    known = list(available)
    if requested not in known:
        raise ValueError(describe_choices(requested, known))


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image as RGB.

    16 bits per pixel are scaled to 8, which Pillow itself would clip.

    Raises:
        OSError: the file is missing or not a readable image; the message names it.
    """
    try:
        with Image.open(path) as opened:
            image: Image.Image = opened
            if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            elif image.mode in ("I", "F"):
                raise ValueError(f"pixels of mode {image.mode} have no defined range; convert it to 8 bits")
            if image.mode == "P" and "transparency" in image.info:
                image = image.convert("RGBA")
            return image.convert("RGB")
    except FileNotFoundError:
        raise
    except Image.DecompressionBombError as error:
        raise OSError(f"{path}: the image is too large ({error}). Shrink it") from error
    except MemoryError as error:
        raise OSError(f"{path}: the image does not fit into memory. Shrink it") from error
    except Exception as error:  # Pillow raises many kinds of errors for damaged files
        raise OSError(
            f"cannot read the image {path}: {error}. Fetch it again, or remove it from the dataset"
        ) from error


def collect_env_info() -> str:
    """Return the versions of Python, torch, NumPy and Pillow, and the devices, in a few lines."""
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
