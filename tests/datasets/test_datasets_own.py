"""A user's own images: ImageFolder and ImageCSV."""

import json

import pytest
from datasets_helpers import build, entries, touch

from datasets import DatasetError, DatasetNotFoundError


def relative(dataset, root):
    return {part: entries(getattr(dataset, part), root) for part in ("train_x", "val", "test")}


@pytest.fixture
def divided(tmp_path):
    """train/, val/, test/ with the classes cat and dog."""
    root = tmp_path / "mine"
    for part, count in (("train", 5), ("val", 2), ("test", 3)):
        touch(root / part, *(f"{name}/{i}.PNG" for name in ("dog", "cat") for i in range(count)))
    return root


@pytest.fixture
def together(tmp_path):
    """One folder with the classes car (10 images) and train (20), and other files."""
    root = tmp_path / "mine"
    touch(root, *(f"car/{i:02d}.jpg" for i in range(10)), *(f"train/{i:02d}.jpeg" for i in range(20)))
    touch(root, "car/.hidden.jpg", "car/notes.txt", "car/Thumbs.db", ".git/x.jpg", "readme.md")
    return root


def test_folder_with_three_parts(divided):
    dataset = build("ImageFolder", divided)
    assert dataset.classnames == ["cat", "dog"]
    found = relative(dataset, divided)
    for part, folder, count in (("train_x", "train", 5), ("val", "val", 2), ("test", "test", 3)):
        pairs = [(name, label) for label, name in enumerate(["cat", "dog"])]
        assert found[part] == [[f"{folder}/{n}/{i}.PNG", y, n] for n, y in pairs for i in range(count)]


def test_folder_without_val(divided):
    for path in sorted((divided / "val").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (divided / "val").rmdir()
    dataset = build("ImageFolder", divided, shots=2, subsample="new")
    assert dataset.val is None and dataset.classnames == ["dog"]
    assert len(dataset.train_x) == 2 and len(dataset.test) == 3
    assert entries(build("ImageFolder", divided, shots=2, subsample="new").train_x, divided) == entries(
        dataset.train_x, divided
    )


def test_folder_is_divided_once(together):
    dataset = build("ImageFolder", together)
    assert dataset.classnames == ["car", "train"]  # a class may have the name of a part
    found = relative(dataset, together)
    sizes = {p: [sum(y == label for _, y, _ in items) for label in (0, 1)] for p, items in found.items()}
    assert sizes == {"train_x": [5, 10], "val": [2, 4], "test": [3, 6]}
    assert len({path for items in found.values() for path, _, _ in items}) == 30
    assert relative(build("ImageFolder", together, seed=5), together) == found

    touch(together, "car/new.jpg")
    assert sum(len(items) for items in relative(build("ImageFolder", together), together).values()) == 31


def test_split_and_draw_are_saved_in_output_only(together, tmp_path):
    before = sorted(together.rglob("*"))
    first, second = (build("ImageFolder", together, shots=2, output=tmp_path / name) for name in "ab")
    assert sorted(together.rglob("*")) == before
    saved = {path.name: path.read_text() for path in (tmp_path / "a/split_fewshot").iterdir()}
    assert set(saved) == {"ImageFolder-split_own.json", "ImageFolder-shot_2-seed_1.json"}
    assert saved == {path.name: path.read_text() for path in (tmp_path / "b/split_fewshot").iterdir()}
    assert relative(first, together) == relative(second, together)
    (together / "car/00.jpg").rename(together / "car/later.jpg")
    third = build("ImageFolder", together, shots=2, output=tmp_path / "a")
    assert sum(label == 0 for _, label, _ in relative(third, together)["train_x"]) == 2
    assert "later.jpg" in (tmp_path / "a/split_fewshot/ImageFolder-split_own.json").read_text()


def test_split_and_draw_next_to_images_are_read(together, tmp_path):
    dataset = build("ImageFolder", together, shots=1, output=tmp_path / "a")
    for saved in (tmp_path / "a/split_fewshot").iterdir():
        name = saved.name.removeprefix("ImageFolder-")
        target = together / name if name == "split_own.json" else together / "split_fewshot" / name
        target.parent.mkdir(exist_ok=True)
        content = json.loads(saved.read_text())
        if name == "split_own.json":
            content["test"].reverse()  # recognisable
        target.write_text(json.dumps(content))
    again = build("ImageFolder", together, shots=1, output=tmp_path / "b")
    assert again.classnames == ["car", "train"] and not (tmp_path / "b").exists()
    assert relative(again, together)["test"] == relative(dataset, together)["test"][::-1]
    touch(together, "car/new.jpg")
    with pytest.raises(DatasetError, match="split_own.json: does not contain the current images .* Delete it"):
        build("ImageFolder", together, output=tmp_path / "c")


def test_own_images_without_writable_output(together, tmp_path, caplog):
    (tmp_path / "file").touch()
    expected = relative(build("ImageFolder", together, shots=1), together)
    assert relative(build("ImageFolder", together, shots=1, output=tmp_path / "file"), together) == expected
    assert "not saved, but reproducible" in caplog.text


def test_class_names_file(together):
    (together / "classnames.txt").write_text("train railway train\n# a comment\ncar motor car\nbus omnibus\n")
    dataset = build("ImageFolder", together)
    assert dataset.classnames == ["motor car", "railway train"]


def test_class_names_file_with_tabs(tmp_path):
    touch(tmp_path, *(f"{name}/{i}.jpg" for name in ("my cat", "my dog") for i in range(4)))
    (tmp_path / "classnames.txt").write_text("my dog\tgrey hound\nmy cat\ttabby\n")
    assert build("ImageFolder", tmp_path).classnames == ["tabby", "grey hound"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("car motor car\n", 'no class name for the folder "train"'),
        ("car\ntrain x\n", 'line "car"; expected a folder name'),
        ("car a\ncar b\ntrain x\n", '"car" occurs twice'),
        ("car vehicle\ntrain vehicle\n", 'the folders "car" and "train" get the same class name "vehicle"'),
    ],
)
def test_invalid_class_names_file(together, text, fault):
    (together / "classnames.txt").write_text(text)
    with pytest.raises(DatasetError, match=fault):
        build("ImageFolder", together)


def test_invalid_folder(divided, caplog):
    touch(divided, "valid/cat/1.jpg")
    build("ImageFolder", divided)
    assert "did not read the other folders: ['valid']" in caplog.text
    touch(divided, "test/bird/1.jpg")
    with pytest.raises(DatasetError, match='class "bird" .* has no training images'):
        build("ImageFolder", divided)
    (divided / "train/bird").mkdir()
    with pytest.raises(DatasetError, match="train/bird: no images"):
        build("ImageFolder", divided)


def test_folder_without_test(divided):
    (divided / "test").rename(divided.parent / "gone")
    with pytest.raises(DatasetNotFoundError, match="mine/test does not exist"):
        build("ImageFolder", divided)


def test_missing_or_flat_folder(tmp_path):
    with pytest.raises(DatasetNotFoundError, match="(?s)nowhere does not exist.*train/<class>/<image>"):
        build("ImageFolder", tmp_path / "nowhere")
    touch(tmp_path, "flat/1.jpg")
    with pytest.raises(DatasetError, match="no class folders"):
        build("ImageFolder", tmp_path / "flat")


def test_class_too_small_to_divide(together):
    touch(together, "bus/1.jpg", "bus/2.jpg", "bus/3.jpg")
    with pytest.raises(DatasetError, match='class "bus" has 3 images; expected 4 or more'):
        build("ImageFolder", together)
    touch(together, "bus/4.jpg")
    assert build("ImageFolder", together).classnames == ["bus", "car", "train"]


# ------------------------------------------------------------------------------ CSV


@pytest.fixture
def table(tmp_path):
    """Return a function that writes images.csv and its images, and returns the folder."""
    root = tmp_path / "mine"

    def write(text, images=("a.jpg", "b.jpg", "c.jpg", "d.jpg", "sub/e.jpg"), encoding="utf-8"):
        touch(root, *images)
        (root / "images.csv").write_text(text, encoding=encoding)
        return root

    return write


@pytest.mark.parametrize("head", ["path,classname,split", "Split , Path,Class name"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv_with_split(table, head, encoding):
    columns = [name.strip().lower() for name in head.split(",")]
    rows = [("sub/e.jpg", "zebra", "train"), ("a.jpg", "ant, red", "train"), ("b.jpg", "zebra", "test")]
    cells = [{"path": p, "class": c, "split": s} for p, c, s in rows]
    lines = [",".join(f'"{row[name.removesuffix(" name").removesuffix("name")]}"' for name in columns) for row in cells]
    root = table("\n".join([head, *lines]) + "\n\n", encoding=encoding)
    dataset = build("ImageCSV", root)
    assert dataset.classnames == ["ant, red", "zebra"] and dataset.val is None
    assert entries(dataset.train_x, root) == [["sub/e.jpg", 1, "zebra"], ["a.jpg", 0, "ant, red"]]
    assert entries(dataset.test, root) == [["b.jpg", 1, "zebra"]]


def test_csv_without_split_is_divided(table):
    images = [f"{name}{i}.jpg" for name in ("x", "y") for i in range(10)]
    root = table("path,classname\n" + "".join(f"{image},class {image[0]}\n" for image in images), images)
    dataset = build("ImageCSV", root, shots=1)
    assert dataset.classnames == ["class x", "class y"]
    assert [len(dataset.train_x), len(dataset.val), len(dataset.test)] == [2, 2, 6]
    saved = root.parent / "output/split_fewshot/ImageCSV-split_own.json"
    kept = json.loads(saved.read_text())
    assert sorted(path for items in kept.values() for path, _, _ in items) == sorted(images)
    assert not (root / "split_own.json").exists()
    saved.unlink()
    table("path,classname\n" + "".join(f"{image},class {image[0]}\n" for image in reversed(images)), images)
    assert entries(build("ImageCSV", root).test, root) == entries(dataset.test, root)  # independent of the rows' order


def test_csv_with_absolute_paths(table, tmp_path):
    touch(tmp_path / "store", "1.jpg", "2.jpg")
    root = table(f"path,classname,split\n{tmp_path}/store/1.jpg,x,train\n{tmp_path}/store/2.jpg,x,test\n")
    first = build("ImageCSV", root, shots=1)
    assert first.train_x[0].impath == f"{tmp_path}/store/1.jpg"
    assert build("ImageCSV", root, shots=1).train_x[0].impath == first.train_x[0].impath


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", r"columns \[\]; expected path,classname"),
        ("a.jpg,x,train\n", "columns .*'a.jpg'"),
        ("path;classname;split\na.jpg;x;train\n", "path;classname;split"),
        ("path,classname,split\na.jpg,x,train\nb.jpg,x,dev\n", "line 3: .*'dev'"),
        ("path,classname,split\na.jpg,x\n", "line 2"),
        ("path,classname,split\na.jpg,x,train,more\n", "line 2"),
        ("path,classname,split\na.jpg,,train\n", "line 2"),
        ("path,classname,split\na.jpg,x,all\n", "line 2"),
        ("path,classname,split\na.jpg,x,train\n", "no test images"),
        ("path,classname,split\na.jpg,x,test\n", "no training images"),
        ("path,classname\n", "no training images"),
        ("path,classname,split\na.jpg,x,train\n./a.jpg,x,test\n", '"a.jpg" is listed more than once'),
        ("path,classname,split\na.jpg,x,train\nno.jpg,x,test\n", "1 of 2 listed images do not exist.*mine/no.jpg"),
        ("path,classname,split\na.jpg,x,train\nb.jpg,y,test\n", 'class "y" .* has no training images'),
        ("path,classname\na.jpg,x\nb.jpg,x\nc.jpg,x\n", "has 3 images; expected 4 or more"),
    ],
)
def test_invalid_csv(table, text, fault):
    root = table(text)
    with pytest.raises(DatasetError, match=fault) as error:
        build("ImageCSV", root)
    assert str(root / "images.csv") in str(error.value)


def test_csv_with_another_encoding(table):
    root = table("path,classname,split\na.jpg,caf\xe9,train\n", encoding="latin-1")
    with pytest.raises(DatasetError, match="images.csv: not UTF-8"):
        build("ImageCSV", root)


def test_missing_csv(tmp_path):
    with pytest.raises(DatasetNotFoundError, match="(?s)images.csv does not exist.*path,classname,split"):
        build("ImageCSV", tmp_path)
