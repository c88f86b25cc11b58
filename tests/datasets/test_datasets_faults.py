"""Data that could give silently wrong results: read with the right values, or rejected in one line."""

import csv
import io
import json
import logging
import os

import numpy as np
import pytest
from datasets_helpers import build, entries, golden_folder, kind_of, touch
from PIL import Image, TiffImagePlugin

import datasets
from datasets import DatasetError, class_names
from datasets.check import check
from datasets.images import image_endings, inspect_image, read_image

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def encode(text):
    """A tokenizer that ignores case and repeated spaces, as CLIP's does."""
    return [ord(letter) for letter in " ".join(text.lower().split())]


def fails(name, root, **more):
    """Build a dataset; return its one-line error message."""
    with pytest.raises((DatasetError, OSError)) as error:
        build(name, root, **more)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def own(tmp_path):
    """Class folders star and moon in train/ and test/."""
    root = tmp_path / "own"
    touch(root, *(f"{part}/{name}/{n}.png" for part in ("train", "test") for name in ("moon", "star") for n in "123"))
    return root


# ------------------------------------------------------------------------------ class names


@pytest.mark.parametrize("pair", [("red_star", "red star"), ("Heart", "heart"), ("big  moon", "big moon")])
def test_own_classes_with_identical_tokens_are_rejected(tmp_path, pair):
    touch(tmp_path, *(f"{part}/{name}/1.png" for part in ("train", "test") for name in (*pair, "circle")))
    dataset = build("ImageFolder", tmp_path)
    with pytest.raises(DatasetError, match="identical tokens of the class names") as error:
        dataset.check_class_names(encode)
    assert all(f'"{name}"' in str(error.value) for name in pair) and "circle" not in str(error.value)
    build("ImageFolder", tmp_path, subsample="base" if pair[0] == "red_star" else "all")
    report = check("image_folder", kind_of("ImageFolder"), tmp_path, tmp_path, quick=True, encode=encode)
    assert not report.complete and "identical tokens" in report.problems[0]


def test_different_classes_pass_the_token_check(own):
    dataset = build("ImageFolder", own)
    dataset.check_class_names(encode)
    assert not dataset.remarks


def test_published_classes_with_identical_tokens_are_warned_of(tmp_path, caplog):
    root = golden_folder(tmp_path / "data", "imagenet")
    names = root / "imagenet/classnames.txt"
    lines = names.read_text().splitlines()
    names.write_text("\n".join([f"{lines[0].split()[0]} {lines[1].split(maxsplit=1)[1]}", *lines[1:]]))
    dataset = build("ImageNet", root)
    dataset.check_class_names(encode)
    (remark,) = dataset.remarks
    assert "identical tokens" in remark and remark in caplog.text and "\n" not in remark
    report = check("imagenet", kind_of("ImageNet"), root, tmp_path, quick=True, encode=encode)
    assert any("identical tokens" in note for note in report.notes)


def test_tokens_may_be_tensors_and_many_groups_are_shortened():
    torch = pytest.importorskip("torch")
    names = [f"{name}{case}" for name in "abcde" for case in ("", " ")]
    groups = class_names.indistinguishable(names, lambda text: torch.tensor([ord(text[0])]))
    assert groups == [[name, f"{name} "] for name in "abcde"]
    assert class_names.describe(groups).endswith("; and 2 more")


# ------------------------------------------------------------------------------ class lists


@pytest.fixture
def v2(tmp_path):
    """ImageNetV2 with four classes; returns (root, the path of classnames.txt)."""
    touch(tmp_path, *(f"imagenetv2/imagenetv2-matched-frequency-format-val/{n}/1.jpeg" for n in range(4)))
    return tmp_path, tmp_path / "imagenetv2/classnames.txt"


LINES = [f"n000000{n}{n} {name}" for n, name in enumerate(["star", "circle", "heart", "square"], 1)]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [0, 2, 1, 3], [3, 2, 1, 0]])
def test_imagenetv2_ignores_line_order(v2, order):
    root, path = v2
    path.write_text("\n".join(LINES[n] for n in order))
    assert build("ImageNetV2", root).classnames == ["star", "circle", "heart", "square"]


@pytest.mark.parametrize(
    "text",
    [
        "star\ncircle\nheart\nsquare",
        "0 star\n1 circle\n2 heart\n3 square",
        "\n".join(line.replace(" ", ": ") for line in LINES),
        "\n".join(line.replace(" ", ",") for line in LINES),
        "\n".join(line.replace(" ", " 7 ") for line in LINES),
        "\n".join(line.replace(" ", ' "') + '"' for line in LINES),
        "\n".join(f"{line.split()[1]} {line.split()[0]}" for line in LINES),
        json.dumps({str(n): line.split() for n, line in enumerate(LINES)}),
    ],
)
@pytest.mark.parametrize("name", ["ImageNetV2", "ImageNet"])
def test_imagenet_class_list_in_another_format_is_rejected(v2, text, name):
    root, path = v2
    if name == "ImageNet":
        touch(
            root, *(f"imagenet/images/{part}/{line.split()[0]}/1.jpeg" for part in ("train", "val") for line in LINES)
        )
        path = root / "imagenet/classnames.txt"
    path.write_text(text)
    assert str(path) in fails(name, root)


def test_imagenet_class_list_with_synonyms_is_warned_of(v2):
    root, path = v2
    path.write_text("\n".join(f"{line}, {line.split()[1]} shape" for line in LINES))
    assert "4 of 4 class names are lists" in build("ImageNetV2", root).remarks[0]


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


# ------------------------------------------------------------------------------ one file twice


def _spellings(path, folder):
    return {
        "dot": f"./{path}",
        "dots": f"x/../{path}",
        "double": path.replace("/", "//"),
        "absolute": str(folder / path),
    }


@pytest.mark.parametrize("spelling", ["dot", "dots", "double", "absolute"])
def test_training_image_in_test_under_another_spelling(tmp_path, spelling):
    root = golden_folder(tmp_path / "data", "oxford_pets")
    path = root / "oxford_pets/split_zhou_OxfordPets.json"
    split = json.loads(path.read_text())
    image = split["train"][0][0]
    (root / "oxford_pets/images/sub").mkdir()
    os.rename(root / "oxford_pets/images" / image, root / "oxford_pets/images/sub" / image)
    split["train"][0][0] = f"sub/{image}"
    split["test"][0][:] = [
        _spellings(f"sub/{image}", root / "oxford_pets/images")[spelling],
        *split["train"][0][1:],
    ]
    path.write_text(json.dumps(split))
    message = fails("OxfordPets", root)
    assert image in message and "listed more than once" in message and str(path) in message


@pytest.mark.parametrize("link", ["file", "folder"])
def test_one_own_file_under_two_names(own, link):
    if link == "file":
        (own / "test/star/4.png").symlink_to(own / "train/star/1.png")
    else:
        (own / "test/star").rename(own / "elsewhere")
        (own / "test/star").symlink_to(own / "train/star")
    message = fails("ImageFolder", own)
    assert "train/star/1.png" in message and "same file" in message


def test_one_published_file_under_two_names_is_warned_of(tmp_path):
    root = golden_folder(tmp_path / "data", "oxford_pets")
    split = json.loads((root / "oxford_pets/split_zhou_OxfordPets.json").read_text())
    images = root / "oxford_pets/images"
    (images / split["test"][0][0]).unlink()
    (images / split["test"][0][0]).symlink_to(images / split["train"][0][0])
    assert "are the same file" in build("OxfordPets", root).remarks[0]


def test_linked_images_of_different_files_are_accepted(own, tmp_path):
    touch(tmp_path / "store", "a.png", "b.png")
    (own / "train/star/4.png").symlink_to(tmp_path / "store/a.png")
    (own / "test/star/4.png").symlink_to(tmp_path / "store/b.png")
    assert not build("ImageFolder", own).remarks


# ------------------------------------------------------------------------------ CSV


def table(root, head, rows):
    """Write images.csv with one image per row."""
    touch(root, *(f"{n}.png" for n in range(len(rows))))
    with open(root / "images.csv", "w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return root


@pytest.mark.parametrize(
    "head",
    [
        ("path", "classname", "Class Name", "split"),
        ("path", "class_name", "classname", "split"),
        ("path", "Path", "classname", "split"),
        ("path", "classname", "split", "Split"),
    ],
)
def test_csv_with_ambiguous_columns_is_rejected(tmp_path, head):
    root = table(tmp_path, head, [("0.png", "star", "0", "train"), ("1.png", "star", "0", "test")])
    message = fails("ImageCSV", root)
    assert "images.csv" in message and any(f'"{name}"' in message for name in head[1:]) and "both mean" in message


def test_csv_with_other_columns_is_read(tmp_path):
    rows = [("0.png", "star", "train", "x", "y"), ("1.png", "star", "test", "x", "y")]
    root = table(tmp_path, ("path", "classname", "split", "note", "note"), rows)
    assert len(build("ImageCSV", root).test) == 1


def test_csv_with_huge_field_is_rejected(tmp_path):
    root = table(tmp_path, ("path", "classname", "split"), [("0.png", "x" * 140_000, "train"), ("1.png", "x", "test")])
    message = fails("ImageCSV", root)
    assert f"{root / 'images.csv'}, line " in message and len(message) < 500


@pytest.mark.parametrize(
    "text", ['path,classname,split\n0.png,"star,train\n1.png,star,test\n', "path,classname\n\0,x\n"]
)
def test_csv_with_damaged_fields_is_rejected(tmp_path, text):
    table(tmp_path, ("a",), [("x",), ("y",)])
    (tmp_path / "images.csv").write_text(text)
    assert "images.csv" in fails("ImageCSV", tmp_path)


def test_csv_field_may_contain_a_line_break(tmp_path):
    root = table(tmp_path, ("path", "classname", "split"), [("0.png", "a\nb", "train"), ("1.png", "a\nb", "test")])
    assert build("ImageCSV", root).classnames == ["a\nb"]


# ------------------------------------------------------------------------------ few-shot draws


@pytest.fixture
def grown(own, tmp_path):
    """A function that moves a saved draw of `shots` next to the images, from the time before images were added."""

    def keep(shots, count):
        touch(own, *(f"train/{name}/b{n}.png" for name in ("moon", "star") for n in range(count)))
        build("ImageFolder", own, shots=shots, output=tmp_path / "first")
        target = own / f"split_fewshot/shot_{shots}-seed_1.json"
        target.parent.mkdir(exist_ok=True)
        os.rename(tmp_path / f"first/split_fewshot/ImageFolder-shot_{shots}-seed_1.json", target)
        return target

    return keep


def test_draw_that_was_short_of_images_is_rejected_when_more_exist(own, grown):
    path = grown(8, 1)
    assert len(build("ImageFolder", own, shots=8).train_x) == 8  # all that exist: 4 per class
    touch(own, *(f"train/star/c{n}.png" for n in range(9)))
    message = fails("ImageFolder", own, shots=8)
    assert str(path) in message and 'class "star" has 4 train images; expected 8' in message and "Delete" in message


def test_draw_with_a_repeated_image_is_rejected(own, grown):
    path = grown(2, 4)
    content = json.loads(path.read_text())
    content["train"][1] = content["train"][0]
    path.write_text(json.dumps(content))
    assert "repeated" in fails("ImageFolder", own, shots=2)


@pytest.mark.parametrize("change", ["removed", "moved", "class"])
def test_draw_of_changed_images_is_rejected(own, grown, change):
    path = grown(2, 4)
    image = own / json.loads(path.read_text())["train"][0][0]
    if change == "removed":
        image.unlink()
    elif change == "moved":
        image.rename(own / "test/moon/moved.png")
    else:
        touch(own, *(f"{part}/comet/{n}.png" for part in ("train", "test") for n in range(3)))
    message = fails("ImageFolder", own, shots=2)
    assert str(path) in message and "Delete" in message


def test_draw_in_output_is_drawn_again(own, tmp_path, caplog):
    build("ImageFolder", own, shots=8, output=tmp_path / "out")
    touch(own, *(f"train/star/c{n}.png" for n in range(9)))
    dataset = build("ImageFolder", own, shots=8, output=tmp_path / "out")
    assert sum(item.classname == "star" for item in dataset.train_x) == 8
    assert "Drawing again" in caplog.text


# ------------------------------------------------------------------------------ a folder too high or too low


def test_own_folder_one_level_too_high(own):
    folder = own.parent / "images"
    folder.mkdir()
    own.rename(folder / "own")
    message = fails("ImageFolder", folder)
    assert f"pass --data {folder / 'own'}" in message and "train/<class>/<image>" in message
    report = check("image_folder", kind_of("ImageFolder"), folder, folder / "output")
    assert f"pass --data {folder / 'own'}" in report.problems[0]


def test_own_undivided_folder_one_level_too_high(tmp_path):
    touch(tmp_path, *(f"data/photos/{name}/{n}.png" for name in "ab" for n in range(4)))
    assert f"pass --data {tmp_path / 'data/photos'}" in fails("ImageFolder", tmp_path / "data")


def test_own_folder_one_level_too_low(own):
    message = fails("ImageFolder", own / "train/star")
    assert "no class folders but 3 images" in message and f"pass --data {own / 'train'}" in message


def test_train_folder_as_root_is_warned_of(own):
    touch(own, *(f"train/{name}/4.png" for name in ("moon", "star")))
    assert f"--data may be {own}" in build("ImageFolder", own / "train").remarks[0]


@pytest.mark.parametrize("given", ["high", "low"])
def test_published_folder_one_level_too_high_or_low(tmp_path, given):
    root = golden_folder(tmp_path / "all/data", "oxford_pets")
    wrong = root.parent if given == "high" else root / "oxford_pets"
    assert f"pass --data {root}" in fails("OxfordPets", wrong)


@pytest.mark.parametrize(
    ("folder", "alias"),
    [
        ("oxford_pets", "oxford-iiit-pet"), ("oxford_pets", "OxfordPets"), ("dtd", "DTD"), ("food-101", "food101"),
        ("caltech-101", "caltech101"), ("stanford_cars", "StanfordCars"), ("oxford_flowers", "flowers-102"),
        ("fgvc_aircraft", "fgvc-aircraft-2013b"), ("eurosat", "EuroSAT"), ("sun397", "SUN397"),
    ],
)  # fmt: skip
def test_folder_with_another_name_prints_link_command(tmp_path, folder, alias):
    root = golden_folder(tmp_path / "data", folder)
    name = next(n for n in ("OxfordPets", "DescribableTextures", "Food101", "Caltech101", "StanfordCars", "OxfordFlowers",
                            "FGVCAircraft", "EuroSAT", "SUN397") if kind_of(n).dataset_dir == folder)  # fmt: skip
    (root / folder).rename(root / "aside")
    (root / "aside").rename(root / alias)
    message = fails(name, root)
    assert f"run ln -s {root / alias} {root / folder}" in message
    os.system(message[message.index("ln -s") :])
    build(name, root)


def test_archive_unpacked_one_level_deeper_prints_move_command(tmp_path):
    root = golden_folder(tmp_path / "data", "eurosat")
    (root / "eurosat").rename(root / "aside")
    (root / "eurosat").mkdir()
    (root / "aside").rename(root / "eurosat/EuroSAT_RGB")
    message = fails("EuroSAT", root)
    os.system(message[message.index("mv ") :])
    build("EuroSAT", root)


def test_folder_name_with_another_case_prints_move_command(tmp_path):
    root = golden_folder(tmp_path / "data", "oxford_pets")
    (root / "oxford_pets/images").rename(root / "oxford_pets/Images")
    message = fails("OxfordPets", root)
    assert message.endswith(f"run mv {root / 'oxford_pets/Images'} {root / 'oxford_pets/images'}")


# ------------------------------------------------------------------------------ identity


def test_fingerprint_identifies_data_and_ignores_location_shots_and_classes(own, tmp_path):
    first = datasets.fingerprint(build("ImageFolder", own))
    assert len(first) == 64
    assert datasets.fingerprint(build("ImageFolder", own, shots=1, subsample="new", seed=3)) == first
    moved = own.rename(tmp_path / "moved")
    assert datasets.fingerprint(build("ImageFolder", moved)) == first
    located = kind_of("ImageFolder").located(moved, tmp_path)
    located.read_all()
    assert located.data_fingerprint == first


@pytest.mark.parametrize("change", ["image", "size", "name", "class", "part"])
def test_fingerprint_changes_with_data(own, change):
    first = datasets.fingerprint(build("ImageFolder", own))
    if change == "image":
        touch(own, "test/star/4.png")
    elif change == "size":
        Image.new("RGB", (9, 9)).save(own / "test/star/1.png")
    elif change == "name":
        (own / "classnames.txt").write_text("star asterisk\nmoon moon\n")
    elif change == "class":
        touch(own, "train/comet/1.png", "test/comet/1.png")
    else:
        (own / "train/star/1.png").rename(own / "test/star/4.png")
    assert datasets.fingerprint(build("ImageFolder", own)) != first


def test_fingerprint_of_a_foreign_dataset(own):
    from dassl.data.datasets import DatasetBase, Datum

    touch(own, "a.png", "b.png")
    items = [Datum(impath=str(own / name), label=0, classname="x") for name in ("a.png", "b.png")]
    one, other = DatasetBase(train_x=items[:1], test=items[1:]), DatasetBase(train_x=items, test=items[1:])
    assert datasets.fingerprint(one) != datasets.fingerprint(other)


# ------------------------------------------------------------------------------ hostile text files


def test_json_nested_too_deeply_is_rejected(tmp_path):
    root = golden_folder(tmp_path / "data", "oxford_pets")
    path = root / "oxford_pets/split_zhou_OxfordPets.json"
    path.write_text("[" * 100_000 + "]" * 100_000)
    assert str(path) in fails("OxfordPets", root)


@pytest.mark.parametrize("label", ["9" * 5000, 10**30, True, 1.5, None])
def test_split_with_an_impossible_label_is_rejected(tmp_path, label):
    root = golden_folder(tmp_path / "data", "oxford_pets")
    path = root / "oxford_pets/split_zhou_OxfordPets.json"
    split = json.loads(path.read_text())
    split["train"][0][1] = label
    path.write_text(json.dumps(split))
    message = fails("OxfordPets", root)
    assert str(path) in message and len(message) < 500


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["images.csv", "classnames.txt"])
def test_named_pipe_is_rejected(own, name):
    os.mkfifo(own / name)
    assert "not a regular file" in fails("ImageCSV" if name == "images.csv" else "ImageFolder", own)


def test_log_is_quiet_for_complete_own_images(own, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = build("ImageFolder", own)
    assert not dataset.remarks and not [r for r in caplog.records if "own" in r.getMessage()]


def test_image_bytes_helper_is_an_image():
    from datasets_helpers import IMAGE

    assert Image.open(io.BytesIO(IMAGE)).size == (1, 1)
