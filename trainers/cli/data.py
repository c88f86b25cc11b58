"""Check which files of a dataset exist, and download or render datasets.

    caspl data check DATASET|all [--data DIR] [--output DIR] [--quick]
    caspl data fetch DATASET [--data DIR]

DATASET is the name of a file in configs/datasets. `check` writes nothing; its exit code is 0 if all checked datasets
are complete, else 1. `fetch` ends with a quick check.
"""

import argparse
import importlib
import logging
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from ..experiments import places
from ..storage.locks import locked
from . import arguments
from .program import guarded

OWN = ("csv", "image_folder", "unlabelled_folder")  # `all` leaves them out: their folder is DATASET.ROOT itself


def data(argv: list[str] | None = None) -> int:
    """Run one of the two commands and return the exit code."""
    parser = add_arguments(arguments.parser("data", __doc__, keys=False))
    args = arguments.parse(parser, argv, keys=False)
    readers = logging.getLogger(places.datasets_package())
    level = readers.level
    readers.setLevel(logging.ERROR)  # the report contains the readers' warnings
    try:
        return _report(args)
    finally:
        readers.setLevel(level)


def _report(args: argparse.Namespace) -> int:
    lines = fetch_dataset(args.dataset, args.data) if args.command == "fetch" else ()
    for line in lines:
        print(line, flush=True)
    incomplete = []
    names = [name for name in places.dataset_files() if name not in OWN] if args.dataset == "all" else [args.dataset]
    for name in names:
        quick = getattr(args, "quick", True)
        report = _part("check").check(name, registered(name), args.data, args.output, quick, _encode())
        print("\n".join(report.lines()), flush=True)
        incomplete += [] if report.complete else [name]
    if args.dataset == "all":
        complete = len(names) - len(incomplete)
        print(f"\n{complete} of {len(names)} complete; incomplete: {', '.join(incomplete) or 'none'}")
    return 1 if incomplete else 0


def add_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the commands check and fetch with their options; return the parser."""
    commands = parser.add_subparsers(dest="command", required=True)
    check_command = commands.add_parser("check", help="report which files exist and which are missing")
    fetch_command = commands.add_parser(
        "fetch", help="download a dataset from Hugging Face, else by torchvision; or render it"
    )
    check_command.add_argument("dataset", type=dataset_or_all, metavar="DATASET", help="a dataset, or all")
    fetch_command.add_argument("dataset", type=arguments.dataset_name, metavar="DATASET", help="a dataset")
    for command in (check_command, fetch_command):
        arguments.add_folders(command)
    check_command.add_argument("--quick", action="store_true", help="do not decode the images")
    return parser


def dataset_or_all(text: str) -> str:
    """Parse a dataset's name or "all", for argparse."""
    return text if text == "all" else arguments.dataset_name(text)


def registered(name: str) -> Any:
    """Return the dataset class that a file in configs/datasets names."""
    _part("check")  # registers the datasets
    registry = importlib.import_module("dassl.data.datasets").DATASET_REGISTRY
    return registry.get(yaml.safe_load(places.dataset_files()[name].read_text())["DATASET"]["NAME"])


def _encode() -> Any:
    return importlib.import_module("..backbones", __package__).tokenizer().encode


def _part(name: str) -> ModuleType:
    return importlib.import_module(f"{places.datasets_package()}.{name}")


def fetch_dataset(dataset: str, data: Path) -> Iterator[str]:
    """Download a dataset; yield lines that report the result.

    Raises:
        OSError: no source works; the message names links and the expected layout.
    """
    kind = registered(dataset)
    folder = kind.located(data, data).folder
    with locked(folder):
        added = _part("fetch").fetch(kind, data)
    yield from [f"{path}: fetched" for path in added] or [f"{folder}: all files exist already"]


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(lambda: data(argv))
