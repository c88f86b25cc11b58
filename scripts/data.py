"""Check which files of a dataset exist, and download datasets.

python scripts/data.py check DATASET|all --data DIR [--output DIR] [--quick]
python scripts/data.py fetch DATASET --data DIR

DATASET is the name of a file in configs/datasets. `check` writes nothing; its exit code is 0 if all checked datasets
are complete, else 1. `fetch` ends with a quick check.
"""

import argparse
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent / "caspl"), str(Path(__file__).resolve().parent)]

from runs import ROOT, as_program, dataset_name  # noqa: E402  isort: skip (puts the project on the path)

import yaml  # noqa: E402
from dassl.data.datasets import DATASET_REGISTRY  # noqa: E402

from datasets import FewShotDataset  # noqa: E402
from datasets.check import check  # noqa: E402
from datasets.fetch import fetch  # noqa: E402

FORMATTER = argparse.RawDescriptionHelpFormatter
OWN = ("csv", "image_folder")  # `all` leaves them out: their folder is DATASET.ROOT itself


def main() -> None:
    """Run the command line."""
    args = add_arguments(argparse.ArgumentParser(description=__doc__, formatter_class=FORMATTER)).parse_args()
    lines = fetch_dataset(args.dataset, args.data) if args.command == "fetch" else ()
    for line in lines:
        print(line, flush=True)
    incomplete = []
    names = dataset_files(without=OWN) if args.dataset == "all" else [args.dataset]
    for name in names:
        report = check(name, registered(name), args.data, args.output, getattr(args, "quick", True))
        print("\n".join(report.lines()), flush=True)
        incomplete += [] if report.complete else [name]
    if args.dataset == "all":
        complete = len(names) - len(incomplete)
        print(f"\n{complete} of {len(names)} complete; incomplete: {', '.join(incomplete) or 'none'}")
    if incomplete:
        sys.exit(1)


def add_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the commands check and fetch with their options; return the parser."""
    commands = parser.add_subparsers(dest="command", required=True)
    check_command = commands.add_parser("check", help="report which files exist and which are missing")
    fetch_command = commands.add_parser("fetch", help="download a dataset, or print where to get it")
    check_command.add_argument("dataset", type=dataset_or_all, metavar="DATASET", help="a dataset, or all")
    fetch_command.add_argument("dataset", type=dataset_name, metavar="DATASET", help="a dataset")
    for command in (check_command, fetch_command):
        command.add_argument("--data", type=Path, required=True, help="folder of the datasets")
        command.add_argument(
            "--output", type=Path, default=ROOT / "output", help="folder of the runs (default: output/)"
        )
    check_command.add_argument("--quick", action="store_true", help="do not decode the images")
    return parser


def dataset_or_all(text: str) -> str:
    """Parse a dataset's name or "all", for argparse."""
    return text if text == "all" else dataset_name(text)


def dataset_files(without: tuple[str, ...] = ()) -> list[str]:
    """Return the names of the files in configs/datasets, without some of them."""
    return [name for path in sorted((ROOT / "configs/datasets").glob("*.yaml")) if (name := path.stem) not in without]


def registered(name: str) -> type[FewShotDataset]:
    """Return the dataset class that a file in configs/datasets names."""
    content = yaml.safe_load((ROOT / "configs" / "datasets" / f"{name}.yaml").read_text())
    return DATASET_REGISTRY.get(content["DATASET"]["NAME"])


def fetch_dataset(dataset: str, data: Path) -> Iterator[str]:
    """Download a dataset; yield lines that report the result, or where to get the data and the expected layout.

    Raises:
        OSError: the download failed.
    """
    kind = registered(dataset)
    located = kind.located(data, data)
    if kind.facts.download is None:
        yield from (f"{dataset}: no automatic download. Get it from:", kind.source, *kind.facts.links)
        yield from (f"Expected in {located.folder}:", *located.describe_layout())
        return
    try:
        moved = fetch(kind.facts.download, located.folder)
    except OSError as error:
        where = [
            f"{error}\nGet it from:",
            *kind.facts.links,
            f"Expected in {located.folder}:",
            *located.describe_layout(),
        ]
        raise OSError("\n".join(where)) from error
    yield from [f"{path}: fetched" for path in moved] or [f"{located.folder}: the images exist already"]


if __name__ == "__main__":
    logging.getLogger("datasets").setLevel(logging.ERROR)  # the report contains the readers' warnings
    as_program(main)
