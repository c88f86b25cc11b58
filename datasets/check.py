"""Report on a dataset: which files exist, which are missing, which are damaged. Writes nothing."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from dassl.data.datasets import Datum
from tqdm import tqdm

from .base import FewShotDataset
from .class_names import Encode, describe, indistinguishable
from .errors import DatasetError, MissingImagesError
from .facts import COLUMNS
from .identity import file_sha256
from .images import ImageDatum
from .shapes.dataset import RenderedDataset
from .splits import PARTS

EXAMPLES = 5  # number of damaged images that a report names

Parts = Mapping[str, list[Datum] | None]


@dataclass
class Report:
    """The result of a check.

    Attributes:
        name: of the dataset's file in configs/datasets.
        folder: the folder that was checked.
        split: the origin of the division into train, val and test ("": unknown).
        found, published: {"classes"|"train"|"val"|"test": number}; empty if nothing was found, or is published.
        notes, problems: one sentence each; a dataset with a problem is incomplete.
        help: where to get missing files.
    """

    name: str
    folder: Path
    split: str = ""
    found: dict[str, int] = field(default_factory=dict)
    published: dict[str, int | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    help: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing or damaged."""
        return not self.problems

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        lines = [f"{self.name}: {'complete' if self.complete else 'INCOMPLETE'}", f"  folder     {self.folder}"]
        if self.split:
            lines.append(f"  split      {self.split}")
        if self.found:
            lines.append("             " + "".join(f"{column:>9}" for column in COLUMNS))
            lines.append(_row("found", self.found))
            if self.published:
                lines.append(_row("published", self.published))
        for title, texts in (("note", self.notes), ("PROBLEM", self.problems), ("get it", self.help)):
            for text in texts:
                first, *others = text.splitlines()
                lines += [f"  {title:<11}{first}", *(f"  {'':<11}{line}" for line in others)]
        return lines


def _row(title: str, numbers: Mapping[str, int | None]) -> str:
    cells = ("-" if numbers.get(column) is None else str(numbers[column]) for column in COLUMNS)
    return f"  {title:<11}" + "".join(f"{cell:>9}" for cell in cells)


def check(
    name: str,
    kind: type[FewShotDataset],
    data: Path,
    output: Path,
    quick: bool = False,
    encode: Encode | None = None,
) -> Report:
    """Check a dataset.

    Args:
        name: of the dataset's file in configs/datasets.
        kind: the dataset's class.
        data, output: `DATASET.ROOT`, and the folder where splits made here are kept if `data` is read-only.
        quick: do not decode the images.
        encode: the tokenizer of the backbone; finds class names that a model cannot tell apart (None: not tested).
    """
    dataset = kind.located(data, output)
    report = Report(name, dataset.folder, published=kind.expected_counts())
    if isinstance(dataset, RenderedDataset) and not dataset.folder.exists():
        report.notes.append("does not exist yet: rendered on first use")
        return report
    parts: Parts
    try:
        parts = dict(zip(PARTS, dataset.read_all(), strict=True))
    except MissingImagesError as error:
        parts = error.parts
        report.problems.append(str(error))
    except (DatasetError, OSError) as error:
        report.problems.append(str(error))
        report.help = kind.facts.links
        return report
    finally:
        report.notes += dataset.remarks
    report.split = dataset.split_in_use
    report.found = counts(parts)
    if "train" in parts:  # otherwise the division is not known because images are missing
        report.problems += differences(report.found, report.published)
    report.problems += filter(None, [dataset.incomplete])
    report.notes += known_files(dataset)
    if encode:
        (report.problems if dataset.own_images else report.notes).extend(_same_tokens(parts, encode))
    decode_images(report, parts, quick)
    kept = sorted(path.name for path in (dataset.folder / "split_fewshot").glob("shot_*"))
    if kept:
        report.notes.append(f"few-shot draws in the data folder: {', '.join(kept)}")
    if report.problems:
        report.help = [kind.source, *kind.facts.links]
    return report


def _same_tokens(parts: Parts, encode: Encode) -> list[str]:
    names = {item.label: item.classname for items in parts.values() for item in items or ()}
    groups = indistinguishable([names[label] for label in sorted(names)], encode)
    return [f"identical tokens of the class names {describe(groups)}"] if groups else []


def known_files(dataset: FewShotDataset) -> list[str]:
    """Compare the files that determine the split with their known hashes.

    Return one sentence per result.
    """
    hashes = {dataset.folder / name: digest for name, digest in dataset.facts.files.items()}
    existing = {path: file_sha256(path) for path in hashes if path.is_file()}
    different = [path.name for path, digest in existing.items() if digest != hashes[path]]
    notes = [
        f"{name}: differs from the known file; compare the counts, it may only be reformatted" for name in different
    ]
    if existing and not different:
        notes.append(f"known split: {', '.join(path.name for path in existing)}")
    return notes


def counts(parts: Parts) -> dict[str, int]:
    """Count classes and images of {"train": list of Datum, ...}.

    The images of a test set count once.
    """
    test = parts.get("test")
    numbers = {part: len(items) for part, items in parts.items() if items and (part == "test" or items is not test)}
    return {"classes": len({item.label for items in parts.values() for item in items or ()}), **numbers}


def differences(found: Mapping[str, int], published: Mapping[str, int | None]) -> list[str]:
    """Return a sentence for each number that differs from the published one."""
    pairs = [(column, found.get(column, 0), number) for column, number in published.items() if number is not None]
    return [f"{column}: {ours} found, {theirs} published" for column, ours, theirs in pairs if ours != theirs]


def decode_images(report: Report, parts: Parts, quick: bool) -> None:
    """Decode all images as in training.

    Add their number to the notes and damaged ones to the problems.

    Args:
        report: is extended.
        parts: {"train": list of Datum, ...}.
        quick: only count the images.
    """
    different = {item.impath: item for items in parts.values() for item in items or ()}
    items = [different[path] for path in sorted(different)]
    if quick:
        report.notes.append(f"{len(items)} images listed, all exist; not decoded (--quick)")
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        faults = [f for f in tqdm(pool.map(_fault, items), report.name, len(items), unit=" images", disable=None) if f]
    report.notes.append(f"{len(items) - len(faults)} of {len(items)} images decoded")
    if faults:
        more = f"\n… and {len(faults) - EXAMPLES} more" if len(faults) > EXAMPLES else ""
        report.problems.append(f"{len(faults)} unreadable images:\n" + "\n".join(faults[:EXAMPLES]) + more)


def _fault(item: ImageDatum) -> str | None:
    try:
        item.read()
    except (DatasetError, OSError) as error:
        return str(error)
    return None
