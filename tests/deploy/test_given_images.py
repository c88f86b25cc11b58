"""Images that a classifier is given are decoded as in evaluation: bit depth, orientation, undefined ranges."""

import numpy as np
import pytest
from dassl.utils import read_image
from PIL import Image

from trainers.deploy.images import ImageError, as_rgb, open_image

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_16_bits_equal_8_bits(tmp_path, name):
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / name)
    for image in (open_image(tmp_path / name), read_image(str(tmp_path / name)), as_rgb(Image.open(tmp_path / name))):
        assert image.mode == "RGB" and np.array_equal(np.asarray(image)[..., 0], GREY)


def test_16_bits_in_memory_equal_8_bits():
    assert np.array_equal(np.asarray(as_rgb(Image.fromarray(GREY.astype(np.uint16) * 257)))[..., 0], GREY)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_undefined_range_is_rejected(tmp_path, dtype):
    path = tmp_path / "a.tif"
    Image.fromarray(GREY.astype(dtype)).save(path)
    with pytest.raises(ImageError, match="a.tif"):
        open_image(path)
    with pytest.raises(ImageError, match="expected RGB or grey values"):
        as_rgb(Image.open(path))
    with pytest.raises(OSError, match="a.tif"):
        read_image(str(path))


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(GREY[:, :8]).save(tmp_path / "a.jpg", exif=exif.tobytes())
    assert open_image(tmp_path / "a.jpg").size == (16, 8)
    assert as_rgb(Image.open(tmp_path / "a.jpg")).size == (16, 8)


@pytest.mark.parametrize("content", [b"", b"<html>"])
def test_damaged_file_is_rejected(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match="a.png"):
        open_image(tmp_path / "a.png")
