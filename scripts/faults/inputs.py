"""Generated inputs: hostile recipes, and data with a known figure or a known fault."""

import json
import random
import shutil
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from . import children, commands
from .children import Case
from .damage import separate
from .spoiled import copy_of


def recipe(folder: Path, intact: dict, rng: random.Random) -> Case:
    """Give a hostile or mistaken recipe; it is rejected in one line that names the file or the key, in seconds."""
    root = copy_of(folder)
    word = "".join(rng.choices(string.ascii_uppercase, k=6))
    depth, width = rng.choice([100, 1000, 20_000]), rng.choice([2, 8, 40])
    aliases = ["l0: &l0 {a: 1, b: 2}"]
    aliases += [f"l{i}: &l{i} {{" + ", ".join(f"k{j}: *l{i - 1}" for j in range(width)) + "}" for i in range(1, 12)]
    texts = {
        "nested list": "[" * depth + "]" * depth,
        "nested mapping": "{a: " * depth + "1" + "}" * depth,
        "nested block": "\n".join(" " * i + "a:" for i in range(min(depth, 2000))),
        "aliases": "\n".join(aliases),
        "loop": "OPTIM: &a\n  LR: *a",
        "python object": f"OPTIM: !!python/object/apply:os.system ['touch {folder / 'trace'}']",
        "unknown section": f"{word}:\n  LR: 1",
        "unknown key": f"OPTIM:\n  {word}: 1",
        "list for a section": "OPTIM: [1, 2]",
        "value for a section": f"OPTIM: {rng.choice(['1', 'null', 'true', 'x'])}",
        "list": "- OPTIM\n- LR",
        "twice": "OPTIM:\n  LR: 0.1\n  LR: 0.2",
        "tab": "OPTIM:\n\tLR: 0.1",
        "base that is missing": f"_BASE_: {word}.yaml",
        "base of itself": "_BASE_: hostile.yaml",
        "base that is a list": "_BASE_: [a, b]",
        "huge": "# " + "x" * (40 << 20),
    }
    what = rng.choice(list(texts))
    (root / "hostile.yaml").write_text(texts[what] + "\n")
    ended = children.run(commands.train(root, "CoOp", "new", recipe="hostile.yaml"), folder, limit=children.BOMB)
    names = [str(root / "hostile.yaml"), "OPTIM.", "OPTIM:", f"{word}.yaml", f"{word}."]
    outcome = "executed" if (folder / "trace").exists() else ended.outcome(None, names)
    (folder / "trace").unlink(missing_ok=True)
    return Case("recipe: hostile", outcome, f"{what}\n{ended.text[-2000:]}")


def classes(folder: Path, intact: dict, rng: random.Random) -> Case:
    """Add a class that CLIP's tokeniser cannot distinguish from another one; the error names both."""
    root = copy_of(folder)
    name = rng.choice(commands.CLASSES)
    twins = [name.upper(), name.capitalize(), f"{name}_", f"_{name}", f"{name} ", f" {name}"]
    twin = rng.choice([*twins, "".join(rng.choice([c, c.upper()]) for c in name)])
    if twin == name:
        twin = name.upper()
    for part in ("train", "test"):
        shutil.copytree(root / "data" / part / name, root / "data" / part / twin)
    (root / "data" / "classnames.txt").unlink()
    ended = children.run(commands.train(root, rng.choice(["CoOp", "CasPL"]), "new"), folder)
    outcome = ended.outcome(None, [name])
    if outcome == "rejected" and twin.strip("_ ") not in ended.error:
        outcome = "message"
    return Case("data: classes of the same tokens", outcome, f"{twin!r}\n{ended.text}")


_EXACT = {  # format: modes that keep grey values exactly
    "png": ("L", "LA", "RGB", "RGBA", "P", "I;16"),
    "bmp": ("L", "RGB", "P"),
    "tiff": ("L", "LA", "RGB", "RGBA", "P", "I;16", "F", "I"),
    "ppm": ("L", "RGB", "I;16"),
    "tga": ("L", "RGB", "RGBA"),
    "webp": ("RGB", "RGBA"),
    "gif": ("L", "P"),
}


def pixels(folder: Path, intact: dict, rng: random.Random) -> Case:
    """Store the grey test images in another format or mode: the same figure, or a rejection if the range is unknown."""
    root = copy_of(folder)
    ending = rng.choice(list(_EXACT))
    mode = rng.choice(_EXACT[ending])
    for path in sorted((root / "grey" / "test").rglob("*.png")):
        with Image.open(path) as opened:
            grey = opened.convert("L")
        path.unlink()
        _in_mode(grey, mode).save(path.with_suffix(f".{ending}"), **({"lossless": True} if ending == "webp" else {}))
    ended = children.run(commands.zero_shot(root, "ImageFolder", "grey"), folder)
    if mode in ("F", "I"):
        outcome = ended.outcome(None, [str(root / "grey" / "test")])
    else:
        outcome = ended.outcome(intact["grey"])
    return Case("data: image formats", outcome, f"{ending} {mode}\n{ended.text}")


def _in_mode(grey: Image.Image, mode: str) -> Image.Image:
    values = np.asarray(grey)
    if mode == "I;16":
        return Image.fromarray(values.astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(values.astype(np.float32) / 255)
    if mode == "I":
        return Image.fromarray(values.astype(np.int32) * 1000)
    return grey.convert(mode)


def orientation(folder: Path, intact: dict, rng: random.Random) -> Case:
    """Store the test images turned, with the EXIF tag that turns them back: the same figure."""
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    root = copy_of(folder)
    ending = rng.choice(["png", "tiff", "webp"])
    for path in sorted((root / "data" / "test").rglob("*.png")):
        number = rng.choice(list(turns))
        with Image.open(path) as opened:
            stored = opened.transpose(turns[number])
        exif = Image.Exif()
        exif[274] = number
        path.unlink()
        stored.save(path.with_suffix(f".{ending}"), exif=exif, **({"lossless": True} if ending == "webp" else {}))
    ended = children.run(commands.zero_shot(root, "ImageFolder", "data"), folder)
    return Case("data: orientation", ended.outcome(intact["zero-shot"]), f"{ending}\n{ended.text}")


@dataclass(frozen=True)
class Edit:
    """A list of images or classes that was edited.

    Attributes:
        what: the edit.
        names: what a rejection must contain, any of them; None if the edit means nothing.
        options: KEY VALUE pairs that give the list.
    """

    what: str
    names: list[str] | None
    options: tuple[str, ...] = ()


def edited(name: str, folder: Path, intact: dict, rng: random.Random) -> Case:
    """Reorder a list, which means nothing, or make a mistake in it, which is rejected; then evaluate on it."""
    root = copy_of(folder)
    edit, dataset, data = EDITS[name](root, rng), *PLACES[name]
    ended = children.run(commands.zero_shot(root, dataset, data, *edit.options), folder)
    same = {"class list": "zero-shot", "csv": "table", "split file": "pets"}
    outcome = ended.outcome(intact[same[name]]) if edit.names is None else ended.outcome(None, edit.names)
    return Case(f"data: {name}", outcome, f"{edit.what}\n{ended.text[-2000:]}")


def class_list(root: Path, rng: random.Random) -> Edit:
    """Edit the class list of the user's own images, or one of renamings."""
    path = root / "data" / "classnames.txt"
    lines = path.read_text().splitlines()
    rng.shuffle(lines)
    twice = f"{lines[0].split()[0]} {lines[1].split()[0]}"
    texts = {
        "order": lines,
        "carriage returns": [f"{line}\r" for line in lines],
        "empty lines": ["", *lines, ""],
        "a name twice": [twice, *lines[1:]],
        "a class twice": [*lines, f"{lines[0]}s"],
        "no name": [lines[0].split()[0], *lines[1:]],
        "fewer lines": lines[1:],
        "unknown class": [*lines, "comet comet"],
    }
    what = rng.choice(list(texts))
    options: tuple[str, ...] = ()
    right = what in ("order", "carriage returns", "empty lines")
    if rng.random() < 0.5:  # a list of renamings, which need not name all classes
        path = path.rename(root / "names.txt")
        options, right = ("DATASET.CLASSNAMES", str(path)), right or what == "fewer lines"
    elif what == "unknown class":
        right = True  # a line for a folder that is not there
    path.write_text("\n".join(texts[what]) + "\n")
    return Edit(f"{what}: {path}", None if right else [str(path)], options)


def table(root: Path, rng: random.Random) -> Edit:
    """Edit a CSV file."""
    path = root / "table" / "images.csv"
    head, *rows = path.read_text().splitlines()
    rng.shuffle(rows)
    test = next(row for row in rows if row.endswith(",test"))
    train = next(row for row in rows if row.endswith(",train"))
    texts = {
        "order": [head, *rows],
        "quotes": ['"path","classname","split"', *rows],
        "repeated column": ["classname,path,split,Class Name", *[f"{row},x" for row in rows]],
        "missing column": ["picture,kind,part", *rows],
        "missing picture": [head, *rows, "nowhere.png,star,test"],
        "unknown split": [head, *rows, test.replace(",test", ",tested")],
        "huge field": [head, *rows, f"{'x' * 140_000}.png,star,test"],
        "in train and test": [head, *rows, train.replace(",train", ",test")],
        "other spelling": [head, *rows, "./" + train.replace(",train", ",test")],
        "fewer fields": [head, *rows, "a.png"],
        "no class": [head, *rows, test.replace(f",{test.split(',')[1]},", ",,")],
        "NUL": [head, *rows, "a\0b.png,star,test"],
        "no rows": [head],
    }
    what = rng.choice(list(texts))
    path.write_text("\n".join(texts[what]) + "\n")
    return Edit(what, None if what in ("order", "quotes") else [str(root / "table")])


def split(root: Path, rng: random.Random) -> Edit:
    """Edit a published split file."""
    path = root / "pets" / "oxford_pets" / "split_zhou_OxfordPets.json"
    content = json.loads(path.read_text())
    for part in ("train", "val"):
        rng.shuffle(content[part])
    item, train = content["test"][0], content["train"][0]
    spellings = [train[0], f"./{train[0]}", f"../images/{train[0]}", f"x/../{train[0]}", f".//{train[0]}"]
    edits: dict[str, Callable[[], object]] = {
        "order": lambda: None,
        "training picture in test": lambda: item.__setitem__(0, rng.choice(spellings)),
        "missing picture": lambda: item.__setitem__(0, "nowhere.png"),
        "label": lambda: item.__setitem__(1, rng.choice([-1, 10**9, 2.5, "x", None, True, [1]])),
        "label of another class": lambda: item.__setitem__(1, (item[1] + 1) % 4),
        "class": lambda: item.__setitem__(2, rng.choice([7, None, [], ""])),
        "path": lambda: item.__setitem__(0, rng.choice([7, None, [], ""])),
        "shorter": lambda: item.pop(),
        "part": lambda: content.pop(rng.choice(["train", "test"])),
        "mapping": lambda: content.__setitem__("test", {"a": 1}),
    }
    what = rng.choice(list(edits))
    edits[what]()
    path.write_text(json.dumps(content))
    names = [str(path), str(root / "pets" / "oxford_pets"), train[0]]
    return Edit(f"{what}: {item}", None if what == "order" else names)


EDITS: dict[str, Callable[[Path, random.Random], Edit]] = {"class list": class_list, "csv": table, "split file": split}
PLACES = {  # dataset, and its folder below the root
    "class list": ("ImageFolder", "data"),
    "csv": ("ImageCSV", "table"),
    "split file": ("OxfordPets", "pets"),
}


def other_data(folder: Path, intact: dict, rng: random.Random) -> Case:
    """Change the data of a finished run or protocol and repeat its command; its result must not be given for them."""
    root = copy_of(folder)
    what = rng.choice(
        ["picture added", "picture removed", "picture changed", "class renamed", "class added", "class removed"]
    )
    train = root / "data" / "train"
    pictures = sorted(train.rglob("*.png"))
    picture, name = rng.choice(pictures), rng.choice(commands.CLASSES)
    if what == "picture added":
        shutil.copy(picture, picture.with_name("9.png"))
    elif what == "picture removed":
        picture.unlink()
    elif what == "picture changed":
        Image.fromarray(np.full((48, 48, 3), rng.randrange(256), np.uint8)).save(separate(picture))
    else:
        for part in ("train", "test"):
            here = root / "data" / part
            if what == "class renamed":
                (here / name).rename(here / "comet")
            elif what == "class added":
                shutil.copytree(here / name, here / "comet")
            else:
                shutil.rmtree(here / name)
    (root / "data" / "classnames.txt").unlink()
    shutil.rmtree(root / "data" / "split_fewshot")
    route = rng.choice(["same folder", "resume", "half run", "protocol"])
    commands_of = {
        "same folder": commands.train(root, "CoOp", "coop", *commands.KEPT),
        "resume": commands.train(root, "CoOp", "new", "--resume", str(root / "coop"), *commands.KEPT),
        "half run": commands.train(root, "CoOp", "half", *commands.KEPT),
        "protocol": commands.protocol(root, "output"),
    }
    ended = children.run(commands_of[route], folder)
    return Case(f"other data: {route}", ended.outcome(None, [str(root)]), f"{what}\n{ended.text}")
