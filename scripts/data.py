"""The data: what is there and what is missing, and downloads of what can be downloaded.

python scripts/data.py check DATASET|all --data DIR [--output DIR] [--quick]
python scripts/data.py fetch DATASET --data DIR

DATASET is the name of a file in configs/datasets. `check` writes nothing; its exit code is 0 if everything that was
asked for is complete, else 1. `fetch` ends with a quick check.
"""

import argparse
import logging
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent / "caspl"), str(Path(__file__).resolve().parent)]

from runs import ROOT, as_program, dataset_name  # noqa: E402  isort: skip (puts the project on the path)

import yaml  # noqa: E402
from data_check import check, kind_of, links  # noqa: E402
from data_fetch import DOWNLOADS, fetch  # noqa: E402

OWN = ("csv", "image_folder")  # their folder is DATASET.ROOT itself, so `all` leaves them out


def main() -> None:
    """Command line, see above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("check", "say what is there and what is missing"),
        ("fetch", "download what can be downloaded"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("dataset", type=dataset_name if name == "fetch" else _dataset_or_all, metavar="DATASET")
        command.add_argument("--data", type=Path, required=True, help="folder of the datasets")
        command.add_argument(
            "--output", type=Path, default=ROOT / "output", help="folder of the runs (default: output/)"
        )
    commands.choices["check"].add_argument("--quick", action="store_true", help="do not decode the images")
    args = parser.parse_args()
    if args.command == "fetch":
        fetch_dataset(args.dataset, args.data)
    if not report(args.dataset, args.data, args.output, args.command == "fetch" or args.quick):
        sys.exit(1)


def _dataset_or_all(text):
    return text if text == "all" else dataset_name(text)


def registered(name: str):
    """The class of the dataset that a file in configs/datasets names."""
    content = yaml.safe_load((ROOT / "configs" / "datasets" / f"{name}.yaml").read_text())
    return kind_of(content["DATASET"]["NAME"])


def report(dataset: str, data: Path, output: Path, quick: bool) -> bool:
    """Print the reports of a dataset or of "all"; returns whether all are complete."""
    every = sorted(path.stem for path in (ROOT / "configs" / "datasets").glob("*.yaml"))
    names = [name for name in every if name not in OWN] if dataset == "all" else [dataset]
    incomplete = []
    for name in names:
        found = check(name, registered(name), data, output, quick)
        print("\n".join(found.lines()), flush=True)
        if not found.complete:
            incomplete.append(name)
    if dataset == "all":
        print(
            f"\n{len(names) - len(incomplete)} of {len(names)} complete; incomplete: {', '.join(incomplete) or 'none'}"
        )
    return not incomplete


def fetch_dataset(dataset: str, data: Path) -> None:
    """Download a dataset, or say where to get it and what layout is expected."""
    kind = registered(dataset)
    place = kind.unread(data, data)
    download = DOWNLOADS.get(kind.__name__)
    if download is None:
        print("\n".join([f"{dataset} cannot be downloaded from here. Get it from:", kind.source, *links(kind)]))
        print("\n".join([f"Expected in {place.folder}:", *place.layout]))
        return
    try:
        moved = fetch(download, place.folder)
    except OSError as error:
        raise OSError(
            "\n".join([f"{error}\nGet it from:", *links(kind), f"for {place.folder}:", *place.layout])
        ) from error
    print("\n".join([f"{path}: fetched" for path in moved] or [f"{place.folder}: the images are there already"]))


if __name__ == "__main__":
    logging.getLogger("datasets").setLevel(logging.ERROR)  # the report says what the readers warn of
    as_program(main)
