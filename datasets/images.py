"""Decode image files to 8-bit RGB without silent loss: bit depth from the format, EXIF orientation if requested."""

import warnings
from functools import cache

import numpy as np
from dassl.data.datasets import Datum
from PIL import Image, ImageOps

from .errors import DatasetError

# Formats that Pillow registers but cannot decode by itself, or that are not photographs.
_UNDECODABLE = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
_EIGHT_BIT = {"1", "CMYK", "HSV", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr"}
_SCALED_TO_16_BITS = {"JPEG2000", "PNG", "PPM"}  # formats in which Pillow returns more than 8 bits as 0 to 65535
_UNDEFINED_RANGE = (
    "expected RGB or grey values of 8 or 16 bits, or a format that defines their range. Convert it to 8 bits"
)

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF tags
_LOWEST, _HIGHEST = 340, 341  # TIFF tags SMinSampleValue, SMaxSampleValue
_ORIENTATION = 0x0112  # EXIF tag


@cache
def image_endings() -> frozenset[str]:
    """Return the file endings that the installed Pillow decodes, lower case, with their dot."""
    endings = Image.registered_extensions().items()
    return frozenset(ending for ending, kind in endings if kind in Image.OPEN and kind not in _UNDECODABLE)


class ImageDatum(Datum):
    """A Datum that decodes its own image.

    Class attributes:
        upright: whether the EXIF orientation is applied.
    """

    upright = False

    def read(self) -> Image.Image:
        """Return the image in RGB, 8 bits.

        Raises:
            OSError: the file cannot be decoded.
            DatasetError: the range of its values is not defined.
        """
        return read_image(self.impath, self.upright)


class UprightDatum(ImageDatum):
    """An image of a user's own, shown upright as image viewers do."""

    upright = True


def read_image(path: str, upright: bool = False) -> Image.Image:
    """Decode an image file to RGB, 8 bits.

    Args:
        path: the file.
        upright: apply the EXIF orientation. The CoOp family does not, so published datasets are read without it.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError: the file cannot be decoded.
        DatasetError: the range of its values is not defined (32 bits, floating point) or Pillow cannot convert it to RGB.
    """
    try:
        with Image.open(path) as image:
            return to_rgb(image, path, upright)
    except (DatasetError, FileNotFoundError):
        raise
    except Image.DecompressionBombError as error:
        raise OSError(f"{path}: the image is too large ({error}). Shrink it") from error
    except MemoryError as error:
        raise OSError(f"{path}: the image does not fit into memory. Shrink it") from error
    except Exception as error:  # Pillow reports damage with many exception types
        raise OSError(f"{path}: cannot decode the image ({error}). Replace the file or remove it") from error


def to_rgb(image: Image.Image, name: str, upright: bool = False) -> Image.Image:
    """Convert an image of any mode to RGB, 8 bits.

    Args:
        image: an opened file, or an image in memory.
        name: what error messages call it.
        upright: apply the EXIF orientation.

    Raises:
        DatasetError: the range of its values is not defined (32 bits, floating point) or Pillow cannot convert it to RGB.
    """
    image = _to_eight_bits(image, name)
    if upright:
        image = ImageOps.exif_transpose(image)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # avoids Pillow's warning; the colours are the same
    return image.convert("RGB")


def inspect_image(path: str) -> bool:
    """Check a file's header.

    Return whether it has an EXIF orientation other than upright.

    An orientation that a PNG file stores after its pixels is not found here, although `read_image` applies it.

    Raises:
        OSError: the file is not an image.
        DatasetError: the range of its values is not defined.
    """
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")  # `read_image` repeats them
            _value_range(image, path)
            exif = image.info.get("exif") if image.format == "PNG" else True  # `getexif` would decode a PNG
            return bool(exif) and image.getexif().get(_ORIENTATION, 1) != 1
    except DatasetError:
        raise
    except Exception as error:  # as in `read_image`
        raise OSError(f"{path}: cannot decode the image ({error}). Replace the file or remove it") from error


def _value_range(image: Image.Image, path: str) -> tuple[float, float] | None:
    """Return the values of black and white in an image of more than 8 bits; None for 8 bits."""
    if image.mode in _EIGHT_BIT:
        return None
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    if _HIGHEST in tags:
        low, high = float(_first(tags.get(_LOWEST, 0))), float(_first(tags[_HIGHEST]))
        if low < high:
            return low, high
    if image.format in _SCALED_TO_16_BITS and image.mode.startswith("I"):
        return 0, 65535
    if image.mode.startswith("I;16") and image.format is None:  # in memory
        return 0, 65535
    if image.mode.startswith("I;16") and tags and _first(tags.get(_SAMPLE_FORMAT, 1)) == 1:
        return 0, 2 ** int(_first(tags.get(_BITS, 16))) - 1
    raise DatasetError(f"{path}: {image.format} image with pixels of mode {image.mode}; {_UNDEFINED_RANGE}")


def _first(value: object) -> float:
    return value[0] if isinstance(value, tuple) else value  # type: ignore[return-value]


def _to_eight_bits(image: Image.Image, path: str) -> Image.Image:
    bounds = _value_range(image, path)
    if bounds is None:
        return image
    low, high = bounds
    inverted = image.format == "TIFF" and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    values = (np.asarray(image, dtype=np.float64) - low) / (high - low)
    if not np.isfinite(values).all():
        raise DatasetError(f"{path}: pixels that are not finite numbers; {_UNDEFINED_RANGE}")
    values = np.floor(np.clip(values, 0, 1) * 255.999)  # equal intervals, as in a shift of 16-bit values by 8
    exif = image.getexif()
    image = Image.fromarray((255 - values if inverted else values).astype(np.uint8))
    if exif:
        image.info["exif"] = exif.tobytes()
    return image
