"""Find data that lie too high or too deep, or have the folder names of another project; name the command that fixes it."""

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

# Folder names that other projects and archives use, without case, hyphens and underscores.
_ALIASES = {
    "caltech-101": ("caltech101",),
    "oxford_pets": ("oxfordiiitpet", "pets", "oxfordiiitpets"),
    "stanford_cars": ("cars", "stanfordcars"),
    "oxford_flowers": ("flowers102", "flowers", "oxfordflowers102", "102flowers"),
    "food-101": ("food101",),
    "fgvc_aircraft": ("fgvcaircraft2013b", "aircraft", "fgvcaircraft2013bdata"),
    "sun397": ("sun",),
    "dtd": ("describabletextures", "describabletexturesdataset"),
    "eurosat": ("eurosatrgb",),
    "ucf101": ("ucf101midframes", "ucf"),
    "imagenet": ("imagenet1k", "ilsvrc2012", "ilsvrc"),
    "imagenetv2": ("imagenetv2matchedfrequency", "imagenetv2matchedfrequencyformatval"),
    "imagenet-sketch": ("sketch",),
    "imagenet-adversarial": ("imageneta",),
    "imagenet-rendition": ("imagenetr",),
}
_DEEPEST = 3  # levels that are searched for a layout
_MANY = 60  # folders with more folders are taken to contain classes, and are not searched


def suggest(root: Path, folder: Path, layout: Sequence[str]) -> str:
    """Return what fixes a wrong --data or a wrong layout, in one sentence.

    "" if nothing similar exists.

    Args:
        root: the folder given as --data.
        folder: the dataset's folder, `root` itself for a user's own images.
        layout: the expected content of `folder`.
    """
    wanted = paths_of_layout(layout)
    if folder == root or not root.is_dir():
        return ""
    similar = [path for path in _folders(root) if _same(path.name, folder.name) and path != folder]
    if has_layout(root, wanted) and not any(has_layout(path, wanted) for path in similar):
        if _count(root, wanted) == len(wanted) or not any(_flat(path, wanted) for path in similar):
            return _own_folder(root, folder)
    if folder.is_dir():
        return _inside(folder, wanted)
    for path in similar:
        if remedy := _linked(path, folder, wanted):
            return f"{path} seems to be this dataset: run {remedy}"
    for path in _below(root):
        if path.name == folder.name and find_layout(path, wanted) == path:
            return f"{path} exists: pass --data {shlex.quote(str(path.parent))}"
    if (root.parent / folder.name).is_dir():
        return f"{root.parent / folder.name} exists: pass --data {shlex.quote(str(root.parent))}"
    return ""


def find_layout(top: Path, wanted: Sequence[str]) -> Path | None:
    """Return the folder with most of the expected files and folders.

    It is `top` or one up to three levels below; None if there is none.
    """
    found = [path for path in (top, *_below(top)) if has_layout(path, wanted)]
    return max(found, key=lambda path: _count(path, wanted), default=None)


def paths_of_layout(layout: Sequence[str]) -> list[str]:
    """Return the files and folders that lines of a layout begin with.

    Placeholders such as <class> are left out.
    """
    first = [line.split(" ")[0].split("<")[0].rstrip("/") for line in layout]
    return [path for path in first if path]


def has_layout(folder: Path, wanted: Sequence[str]) -> bool:
    """Return whether a folder contains at least half of the expected files and folders.

    One folder must be among them.
    """
    existing = [path for path in wanted if "*" not in path and (folder / path).exists()]
    return 2 * len(existing) >= len(wanted) and any((folder / path).is_dir() for path in existing)


def _count(folder: Path, wanted: Sequence[str]) -> int:
    return sum((folder / path).exists() for path in wanted)


def _own_folder(root: Path, folder: Path) -> str:
    parent = shlex.quote(str(root.parent))
    if root.name == folder.name:
        return f"{root} seems to be the dataset's own folder: pass --data {parent}"
    if not os.access(root.parent, os.W_OK):
        return f"{root} seems to be the dataset's own folder: run ln -s . {_quoted(folder)}"
    link = f"ln -s {_quoted(root, root.parent / folder.name)}"
    return f"{root} seems to be the dataset's own folder: run {link} and pass --data {parent}"


def _inside(folder: Path, wanted: Sequence[str]) -> str:
    """Return how to complete a dataset's folder from what is in it."""
    best = find_layout(folder, wanted)
    if best and best != folder and (not has_layout(folder, wanted) or _count(best, wanted) > _count(folder, wanted)):
        return f"The files are too deep: run {_raised(best, folder)}"
    doubled = next((folder / path / path for path in wanted if (folder / path / path).is_dir()), None)
    if doubled:
        return f"The files are one level too deep: run mv {shlex.quote(str(doubled))}/* {_quoted(doubled.parent)}/"
    for outer, path in _without_parent(folder, wanted):
        source = "." if path == folder else os.path.relpath(path, (folder / outer).parent)
        return f"The files are in other folders: run ln -s {_quoted(source, folder / outer)}"
    return _renamed_inside(folder, wanted)


def _raised(inner: Path, folder: Path) -> str:
    """Return the command that makes the content of `inner` that of `folder`, which is above it."""
    if not any((folder / path.name).exists() for path in inner.iterdir()):
        return f"mv {shlex.quote(str(inner))}/* {_quoted(folder)}/"
    inner_aside, aside = (folder.with_name(f"{folder.name}-{part}") for part in ("inner", "outer"))
    return " && ".join(
        f"mv {_quoted(*pair)}" for pair in ((inner, inner_aside), (folder, aside), (inner_aside, folder))
    )


def _linked(path: Path, folder: Path, wanted: Sequence[str]) -> str:
    """Return the command that makes a folder with another name the dataset's folder; "" if it has nothing of it."""
    if best := find_layout(path, wanted):
        return f"ln -s {_quoted(best, folder)}"
    for outer, inner in _without_parent(path, wanted):
        return _assembled(folder, {outer: inner} | _files(path, wanted))
    if _flat(path, wanted):
        return _assembled(folder, {_image_folder(wanted): path} | _files(path, wanted))
    return f"ln -s {_quoted(path, folder)}" if _renamed_inside(path, wanted) else ""


def _files(path: Path, wanted: Sequence[str]) -> dict[str, Path]:
    return {name: path / name for name in wanted if (path / name).is_file()}


def _assembled(folder: Path, links: dict[str, Path]) -> str:
    made = [f"ln -s {_quoted(path, folder / name)}" for name, path in links.items()]
    return " && ".join([f"mkdir {_quoted(folder)}", *made])


def _without_parent(top: Path, wanted: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Yield (a, folder) if a folder up to three levels below `top` contains b and c of the expected a/b and a/c."""
    outer = {str(Path(path).parent) for path in wanted if Path(path).parent != Path()}
    for each in outer:
        names = [Path(path).name for path in wanted if str(Path(path).parent) == each]
        if not (top / each).exists():
            yield from ((each, path) for path in (top, *_below(top)) if all((path / name).is_dir() for name in names))


def _image_folder(wanted: Sequence[str]) -> str:
    return wanted[0]  # layouts begin with it


def _flat(path: Path, wanted: Sequence[str]) -> bool:
    """Return whether a folder has class folders where the folder of images is expected."""
    inside = _folders(path)
    return len(inside) > 1 and len([name for name in wanted if not Path(name).suffix]) == 1 and not _folders(inside[0])


def _renamed_inside(folder: Path, wanted: Sequence[str]) -> str:
    """Return how to rename a file or folder whose name differs in case, hyphens or underscores, or the only folder."""
    for path in wanted:
        if (folder / path).exists() or not (folder / path).parent.is_dir():
            continue
        for other in sorted((folder / path).parent.iterdir()):
            if _plain(other.name) == _plain(Path(path).name):
                return f"Its name differs: run mv {_quoted(other, folder / path)}"
    image_folder, inside = folder / _image_folder(wanted), _folders(folder)
    if not image_folder.exists() and image_folder.parent == folder and len(inside) == 1 and _flat(inside[0], wanted):
        return f"Its name differs: run mv {_quoted(inside[0], image_folder)}"
    return ""


def _below(top: Path) -> list[Path]:
    """Return the folders up to three levels below `top`, the upper ones first."""
    found, level = [], [top]
    for _ in range(_DEEPEST):
        level = [path for outer in level for path in _searched(outer)]
        found += level
    return found


def _searched(folder: Path) -> list[Path]:
    inside = _folders(folder)
    return inside if len(inside) <= _MANY else []


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []


def _same(name: str, expected: str) -> bool:
    return _plain(name) in (_plain(expected), *_ALIASES.get(expected, ()))


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _quoted(*paths: str | os.PathLike[str]) -> str:
    return " ".join(shlex.quote(str(path)) for path in paths)
