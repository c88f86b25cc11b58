"""What is there of a dataset, what is missing, and what is broken: a report, found without writing anything."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import trainers  # noqa: F401  isort: skip (makes `dassl` importable)
from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import read_image
from tqdm import tqdm

from datasets import DatasetError, FewShotDataset, MissingImagesError
from datasets.listed import SplitFileDataset
from datasets.published import PUBLISHED, SPLITS
from datasets.rendered import RenderedDataset

COLUMNS = ("classes", "train", "val", "test")
EXAMPLES = 5  # broken images that are named


@dataclass
class Report:
    """What was found of one dataset.

    Attributes:
        name: of its file in configs/datasets.
        folder: where it was looked for.
        split: where its division into train, val and test comes from ("": nothing to divide).
        found, published: {"classes"|"train"|"val"|"test": a number}; empty where nothing was found, or is published.
        notes, problems: a sentence each; with a problem, the dataset is incomplete.
        help: where to get what is missing.
    """

    name: str
    folder: Path
    split: str = ""
    found: dict[str, int] = field(default_factory=dict)
    published: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    help: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing or broken."""
        return not self.problems

    def lines(self) -> list[str]:
        """The report as text."""
        lines = [f"{self.name}: {'complete' if self.complete else 'INCOMPLETE'}", f"  folder     {self.folder}"]
        if self.split:
            lines.append(f"  split      {self.split}")
        if self.found:
            lines.append("             " + "".join(f"{column:>9}" for column in COLUMNS))
        for title, numbers in (("found", self.found), ("published", self.published if self.found else {})):
            if numbers:
                cells = "".join(f"{'-' if numbers.get(c) is None else numbers[c]:>9}" for c in COLUMNS)
                lines.append(f"  {title:<11}{cells}")
        for title, texts in (("note", self.notes), ("PROBLEM", self.problems), ("get it", self.help)):
            for text in texts:
                first, *others = text.splitlines()
                lines += [f"  {title:<11}{first}", *(f"  {'':<11}{line}" for line in others)]
        return lines


def check(name: str, kind: type[FewShotDataset], data: Path, output: Path, quick: bool = False) -> Report:
    """Look at the dataset of class `kind` below `data`.

    Args:
        name: of its file in configs/datasets.
        data, output: DATASET.ROOT, and the folder where divisions are kept if `data` is read-only.
        quick: do not decode the images.
    """
    dataset = kind.unread(data, output)
    report = Report(name, dataset.folder, published=published(kind))
    if isinstance(dataset, RenderedDataset) and not dataset.folder.exists():
        report.notes.append("not there yet: it is rendered on first use")
        return report
    try:
        parts = dict(zip(("train", "val", "test"), dataset.read(dataset.root), strict=True))
    except MissingImagesError as error:
        parts = error.parts
        report.problems.append(str(error))
    except (DatasetError, OSError, ImportError) as error:
        report.problems.append(str(error))
        report.help = links(kind)
        return report
    report.split = dataset.split_in_use
    report.found = counts(parts)
    if "train" in parts:  # else there are images missing from what has still to be divided
        report.problems += differences(report.found, report.published)
    if isinstance(dataset, SplitFileDataset) and not (dataset.folder / dataset.split_file).is_file():
        report.problems.append(f"{dataset.split_file} is missing: results do not compare with published ones")
    look_at_images(report, parts, quick)
    kept = sorted(path.name for path in (dataset.folder / "split_fewshot").glob("shot_*"))
    if kept:
        report.notes.append(f"few-shot draws kept beside the data: {', '.join(kept)}")
    if report.problems:
        report.help = [kind.source, *links(kind)]
    return report


def published(kind: type[FewShotDataset]) -> dict[str, int]:
    """The published numbers of a dataset ({}: there are none); of a rendered one, those that it is declared with."""
    if issubclass(kind, RenderedDataset):
        sizes = {part: each * len(kind.classes) for part, each in kind.sizes.items()}
        return {"classes": len(kind.classes), **sizes}
    facts = PUBLISHED.get(kind.__name__)
    return {column: getattr(facts, column) for column in COLUMNS} if facts else {}


def links(kind: type[FewShotDataset]) -> list[str]:
    """Where to get a dataset."""
    facts = PUBLISHED.get(kind.__name__)
    return [facts.link, f"{SPLITS} (split files, classnames.txt, middle frames)"] if facts else []


def counts(parts: dict) -> dict[str, int]:
    """Numbers of classes and images of {"train": list of Datum, ...}; the pictures of a test set count once."""
    test = parts.get("test")
    numbers = {part: len(items) for part, items in parts.items() if items and (part == "test" or items is not test)}
    return {"classes": len({item.label for items in parts.values() for item in items or ()}), **numbers}


def differences(found: dict[str, int], expected: dict[str, int]) -> list[str]:
    """A sentence for each number that differs from the published one."""
    pairs = [(column, found.get(column, 0), number) for column, number in expected.items() if number is not None]
    return [f"{column}: {ours} found, {theirs} published" for column, ours, theirs in pairs if ours != theirs]


def look_at_images(report: Report, parts: dict, quick: bool) -> None:
    """Decode all images with the reader that training uses; note how many, and which cannot be read."""
    paths = sorted({item.impath for items in parts.values() for item in items or ()})
    if quick:
        report.notes.append(f"{len(paths)} images listed and present, not decoded (--quick)")
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        faults = [f for f in tqdm(pool.map(_fault, paths), report.name, len(paths), unit=" images", disable=None) if f]
    report.notes.append(f"{len(paths) - len(faults)} of {len(paths)} images decoded")
    if faults:
        more = f"\n… and {len(faults) - EXAMPLES} more" if len(faults) > EXAMPLES else ""
        report.problems.append(f"{len(faults)} unreadable images:\n" + "\n".join(faults[:EXAMPLES]) + more)


def _fault(path):
    try:
        read_image(path)
    except Exception as error:  # the real Dassl's reader lets through whatever Pillow raises
        return str(error) if path in str(error) else f"{path}: {error}"
    return None


def kind_of(name: str) -> type[FewShotDataset]:
    """The class of a registered dataset."""
    return DATASET_REGISTRY.get(name)
