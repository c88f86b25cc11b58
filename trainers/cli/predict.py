"""Classify images with a finished run.

    caspl predict RUN IMAGE|FOLDER ... [--classes NAME ...] [--top 5] [--csv FILE | --json FILE]

Unreadable images are listed at the end; the others are written, and the exit code is 3.
"""

import argparse
import contextlib
import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import arguments
from .program import guarded, hide_information

if TYPE_CHECKING:
    from ..deploy.classifier import Classifier

UNREADABLE = 3  # exit code


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a run and its weights."""
    parser.add_argument("run", metavar="RUN", help="a run's folder, or hf-hub:<user>/<name>[@<revision>]")
    parser.add_argument("--backbone", default="", help="name or file of CLIP's weights (default: the run's)")
    parser.add_argument("--device", default="", help="cpu, cuda, ... (default: a GPU if there is one)")


def loaded(args: argparse.Namespace, names: list[str] | None = None) -> "Classifier":
    """Load the run that the arguments name, for other classes if `names` are given."""
    import torch

    from ..deploy.classifier import load

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    classifier = load(args.run, args.backbone, device)
    return classifier.with_classes(names) if names else classifier


def predict(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = arguments.parser("predict", __doc__, keys=False)
    add_run(parser)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE|FOLDER")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="other classes than the run's")
    parser.add_argument("--top", type=int, default=5, help="how many classes for each image (default 5)")
    parser.add_argument("--unknown-below", type=float, metavar="P", help="no label below this probability (0 to 1)")
    parser.add_argument("--batch-size", type=int, help="images at a time (default: as in the run's evaluation)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", type=Path, metavar="FILE", help="write a table: path, label, top classes")
    form.add_argument("--json", type=Path, metavar="FILE", help="write a list of objects")
    args = arguments.parse(parser, argv, keys=False)
    hide_information()
    from ..deploy.images import find_images

    check_positive("--top", args.top)
    check_positive("--batch-size", args.batch_size)
    if args.unknown_below is not None and not 0 <= args.unknown_below <= 1:
        raise ValueError(f"--unknown-below is {args.unknown_below}, expected a probability from 0 to 1")
    files = find_images(args.images)
    classifier = loaded(args, args.classes)
    failed: dict[Path, str] = {}
    with _writer(args, min(args.top, len(classifier.class_names))) as write:
        for path, found in _predicted(classifier, files, args, failed):
            write(path, found.label, found.top)
    return report(failed)


def check_positive(option: str, value: int | None) -> None:
    """Raise `ValueError` unless a number is 1 or more, or not given."""
    if value is not None and value < 1:
        raise ValueError(f"{option} is {value}, expected 1 or more")


def report(failed: dict[Path, str]) -> int:
    """List the unreadable images on stderr; return the exit code."""
    for path, error in failed.items():
        sys.stderr.write(f"unreadable: {path}: {error.removeprefix(f'{path}: ')}\n")
    return UNREADABLE if failed else 0


def _predicted(
    classifier: "Classifier", files: list[Path], args: argparse.Namespace, failed: dict[Path, str]
) -> Iterator:
    from tqdm import tqdm

    with tqdm(total=len(files), unit=" images", disable=None) as bar:
        for batch in classifier.batches(files, args.batch_size):
            failed.update(batch.unreadable)
            if batch.images is not None:
                found = classifier.predictions(classifier(batch.images), args.top, args.unknown_below)
                yield from zip(batch.paths, found, strict=True)
            bar.update(len(batch.paths) + len(batch.unreadable))


@contextlib.contextmanager
def _writer(args: argparse.Namespace, top: int) -> Iterator[Any]:
    """Give a function that writes (path, label, top classes) rows as they come: to a file, or to the console."""
    from ..storage.atomic import replacing

    if args.csv is None and args.json is None:
        yield lambda path, label, top: print(f"{path}: " + ", ".join(f"{name} {p:.3f}" for name, p in top), flush=True)
        return
    with replacing(args.csv or args.json) as aside, open(aside, "w", newline="", encoding="utf-8") as stream:
        if args.csv:
            table = csv.writer(stream)
            table.writerow(["path", "label", *(f"{what}_{n + 1}" for n in range(top) for what in ("class", "p"))])
            yield lambda path, label, top: table.writerow([path, label or "", *(cell for pair in top for cell in pair)])
        else:
            count = 0

            def write(path: Path, label: str | None, top: list) -> None:
                nonlocal count
                row = {"path": str(path), "label": label, "top": [{"class": name, "p": p} for name, p in top]}
                stream.write(("[\n" if count == 0 else ",\n") + json.dumps(row, ensure_ascii=False))
                count += 1

            yield write
            stream.write("\n]\n" if count else "[]\n")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(lambda: predict(argv))
