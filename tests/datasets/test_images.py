"""Image files: every bit depth, mode, orientation and ending is read correctly or rejected."""

import os

import numpy as np
import pytest
from datasets_helpers import build, entries, fails, golden_folder, kind_of, own_folder, touch
from PIL import Image, TiffImagePlugin

from datasets import DatasetError
from datasets.check import check
from datasets.images import image_endings, inspect_image, read_image

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.fixture
def own(tmp_path):
    """Class folders star and moon in train/ and test/."""
    return own_folder(tmp_path)


# ------------------------------------------------------------------------------ pixels


def save(path, values, **options):
    """Save an array as an image; return the path as text."""
    Image.fromarray(values).save(path, **options)
    return str(path)


def tiff_tags(**tags):
    """TIFF tags by number."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for number, value in tags.items():
        info.tagtype[int(number[1:])] = 11  # float
        info[int(number[1:])] = value
    return info


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jp2", "a.pgm"])
def test_16_bits_equal_8_bits(tmp_path, name):
    path = save(tmp_path / name, GREY.astype(np.uint16) * 257)
    assert np.array_equal(np.asarray(read_image(path))[..., 0], GREY)


def test_16_bits_of_both_byte_orders_and_12_bits(tmp_path):
    values = GREY.astype(">u2") * 257
    image = Image.frombytes("I;16B", (16, 16), values.astype(">u2").tobytes())
    image.save(tmp_path / "b.tif")
    assert np.array_equal(np.asarray(read_image(str(tmp_path / "b.tif")))[..., 0], GREY)
    path = save(tmp_path / "c.tif", np.full((4, 4), 4095, np.uint16))
    assert np.asarray(read_image(path)).max() == 15  # 16 bits in the file, whatever the camera has used
    data = bytearray((tmp_path / "c.tif").read_bytes())
    tag = data.index((258).to_bytes(2, "little"))
    data[tag + 8 : tag + 10] = (12).to_bytes(2, "little")
    (tmp_path / "c.tif").write_bytes(data)
    with Image.open(tmp_path / "c.tif") as image:
        assert image.mode == "I;16"
        from datasets.images import _value_range

        assert _value_range(image, "c.tif") == (0, 4095)


def test_16_bits_where_white_is_zero(tmp_path):
    path = tmp_path / "a.tif"
    save(path, GREY.astype(np.uint16) * 257)
    data = bytearray(path.read_bytes())
    tag = data.index((262).to_bytes(2, "little"))
    data[tag + 8 : tag + 10] = bytes(2)
    path.write_bytes(data)
    assert np.array_equal(np.asarray(read_image(str(path)))[..., 0], 255 - GREY)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_range_from_tiff_tags(tmp_path, dtype):
    high = 1 if dtype == np.float32 else 65535
    values = (GREY.astype(np.float64) / 255 * high).round(8).astype(dtype)
    path = save(tmp_path / "a.tif", values, tiffinfo=tiff_tags(t340=0.0, t341=float(high)))
    assert np.array_equal(np.asarray(read_image(path))[..., 0], GREY)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("float.tif", GREY.astype(np.float32) / 255),
        ("int32.tif", GREY.astype(np.int32) * 257),
        ("nan.tif", np.full((4, 4), np.nan, np.float32)),
        ("float.pfm", GREY.astype(np.float32) / 255),
    ],
)
def test_values_without_range_are_rejected(tmp_path, name, values, own):
    path = save(own / "test/star" / name, values)
    with pytest.raises(DatasetError, match=name):
        read_image(path)
    assert name in fails("ImageFolder", own)
    report = check("image_folder", kind_of("ImageFolder"), own, tmp_path)
    assert not report.complete and name in report.problems[0]


def test_values_that_are_not_finite_are_rejected(tmp_path):
    values = np.full((4, 4), np.nan, np.float32)
    path = save(tmp_path / "a.tif", values, tiffinfo=tiff_tags(t340=0.0, t341=1.0))
    with pytest.raises(DatasetError, match="not finite"):
        read_image(path)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"])
@pytest.mark.parametrize("ending", ["png", "tif", "jpg", "webp", "gif", "bmp", "tga", "ppm", "jp2"])
def test_every_mode_is_read_as_8_bits_or_rejected(tmp_path, mode, ending):
    image = Image.fromarray(np.repeat(GREY[..., None], 3, -1))
    image = Image.fromarray(GREY.astype(np.int32)).convert("I") if mode in ("I", "F") else image
    path = tmp_path / f"a.{ending}"
    try:
        if mode == "LAB":
            image = Image.frombytes("LAB", (16, 16), bytes(16 * 16 * 3))
        elif mode == "I;16":
            image = Image.fromarray(GREY.astype(np.uint16) * 257)
        else:
            image = image.convert(mode)
        image.save(path)
    except (OSError, ValueError, KeyError):
        pytest.skip(f"Pillow writes no {ending} of mode {mode}")
    with Image.open(path) as file:
        stored = file.mode
    if stored in ("F", "LAB") or (stored == "I" and ending == "tif"):
        with pytest.raises(DatasetError, match=path.name):
            read_image(str(path))
        with pytest.raises(DatasetError, match=path.name):
            inspect_image(str(path))
        return
    try:
        found = np.asarray(read_image(str(path)))
    except OSError as error:  # for example YCbCr TIFF files of Pillow itself
        assert str(path) in str(error)
        return
    assert found.dtype == np.uint8 and found.shape == (16, 16, 3)
    assert np.ptp(found) > 100 or mode in ("I", "F", "LAB"), "neither black nor white"


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_damaged_own_image_is_rejected_before_training(own, content):
    (own / "test/star/2.png").write_bytes(content)
    assert "test/star/2.png" in fails("ImageFolder", own)


# ------------------------------------------------------------------------------ orientation


def save_turned(path, orientation):
    """Save an image that is upright after its EXIF orientation is applied."""
    upright = Image.fromarray(np.stack([GREY[:, :8]] * 3, -1))
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = upright.transpose(inverse[orientation])
    stored.save(path, exif=exif.tobytes(), **({"quality": 100} if path.suffix == ".jpg" else {"lossless": True}))
    return upright, stored


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_own_images_are_shown_upright(own, orientation, ending, caplog):
    upright, stored = save_turned(own / f"test/star/4.{ending}", orientation)
    dataset = build("ImageFolder", own)
    item = next(item for item in dataset.test if item.impath.endswith(f"4.{ending}"))
    difference = np.abs(np.asarray(item.read(), int) - np.asarray(upright, int))
    assert item.read().size == upright.size and difference.max() <= 3
    assert f"applied the EXIF orientation of 1 images, such as {item.impath}" in caplog.text
    assert read_image(item.impath).size == stored.size


def test_csv_images_are_shown_upright_in_16_bits(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((4, 8), np.uint16)).save(tmp_path / "a.png", exif=exif.tobytes())
    touch(tmp_path, "b.png")
    (tmp_path / "images.csv").write_text("path,classname,split\na.png,x,train\nb.png,x,test\n")
    assert build("ImageCSV", tmp_path).train_x[0].read().size == (4, 8)


def test_published_images_stay_as_published(tmp_path):
    root = golden_folder(tmp_path / "data", "oxford_pets")
    item = build("OxfordPets", root).test[0]
    save_turned(tmp_path / "a.jpg", 6)[1].save(item.impath, exif=(tmp_path / "a.jpg").read_bytes() and _exif(6))
    assert item.read().size == Image.open(item.impath).size


def _exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


# ------------------------------------------------------------------------------ skipped files


def test_endings_that_pillow_reads_are_read(own):
    names = [f"x{ending}" for ending in (".jfif", ".JPE", ".tga", ".jp2", ".PBM", ".ico", ".qoi", ".avif")]
    readable = [name for name in names if os.path.splitext(name)[1].lower() in image_endings()]
    touch(own / "test/star", *names)
    found = {os.path.basename(path) for path, _, _ in entries(build("ImageFolder", own).test, own)}
    assert found == {"1.png", "2.png", "3.png", *readable} and {"x.jfif", "x.JPE", "x.tga", "x.jp2"} <= found


def test_skipped_files_and_folders_are_counted_and_named(own, tmp_path, caplog):
    touch(own, "test/star/a.heic", "test/star/b.heic", "test/moon/c", "train/moon/notes.txt", "test/star/more/1.png")
    touch(own, "test/star/.hidden")
    dataset = build("ImageFolder", own)
    assert len(dataset.test) == 6
    expected = "skipped 4 files (no ending 1, .heic 2, .txt 1) and 1 sub-folders (test/star/more)"
    assert caplog.text.count(expected) == 1
    report = check("image_folder", kind_of("ImageFolder"), own, tmp_path)
    assert report.complete and any(expected in note for note in report.notes)
    assert any(expected in line for line in report.lines())


def test_class_with_skipped_files_only_is_rejected(own):
    for n in "123":
        (own / f"test/star/{n}.png").rename(own / f"test/star/{n}.heic")
    assert "test/star: no images but only 3 files (.heic 3)" in fails("ImageFolder", own)


def test_published_folders_report_skipped_files(tmp_path, caplog):
    root = golden_folder(tmp_path / "data", "imagenet")
    folder = next(path for path in (root / "imagenet/images/train").iterdir())
    touch(folder, "README.md", "deeper/1.JPEG")
    build("ImageNet", root)
    assert "skipped 1 files (.md 1) and 1 sub-folders" in caplog.text
