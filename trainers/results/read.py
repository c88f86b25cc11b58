"""Reads every `result.json` below a folder, and the paper's figures."""

import csv
import functools
import importlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..config import FIELDS, is_place, reads
from ..experiments import result as results
from ..experiments.places import dataset_files
from ..experiments.protocols import ACCURACY, PROTOCOLS, Protocol
from ..experiments.result import Result, ResultError

PAPER = Path(__file__).resolve().parent / "paper"
NOT_RECORDED = "not recorded"
SELECTED_ON_TEST = "epoch selected on the test set"
PROMPT = "boosting prompt"  # the setting that holds the identity of the boosting prompt


@dataclass(frozen=True)
class Run:
    """The figures of one run on one dataset.

    Attributes:
        protocol: its name.
        dataset: registered name of the dataset that was tested.
        source: registered name of the dataset trained on; empty unless the protocol tests on other datasets.
        trainer: CasPL_CoOp, CoOp, ZeroshotCLIP, CasPL (CLIP with the boosting prompt alone), ...
        seed: None if nothing was trained.
        shots: None if nothing was trained.
        figures: {column: value}; accuracies are in per cent.
        classes: whose names phase 1 was given ("all", "base", `NOT_RECORDED`); empty without phase 1.
        path: the `result.json`.
        settings: {key: value} of what determines the figures, except for dataset, seed and shots.
        data: fingerprint of the source dataset; empty in files of version 0.1.0.
        varied: {key: value} that an ablation varied.
        variant: the settings that distinguish it from other runs (see `variants`).
    """

    protocol: str
    dataset: str
    source: str
    trainer: str
    seed: int | None
    shots: int | None
    figures: dict[str, float]
    classes: str
    path: Path
    settings: dict[str, Any] = field(default_factory=dict)
    data: str = ""
    variant: str = ""
    varied: dict[str, str] = field(default_factory=dict)

    @property
    def selected_on_test(self) -> bool:
        """Whether the test images chose its epoch, as in PromptKD's publication."""
        chosen = self.settings.get("TRAINER.PROMPTKD.SELECT_ON") == "test"
        return chosen and self.settings.get("TEST.FINAL_MODEL") == "best_val"

    def setting(self, key: str) -> Any:
        """Return a setting.

        For a key that the file lacks its default, None if the trainer does not read it.
        """
        value = self.settings.get(key)
        if self.settings and key not in self.settings and _reads(self.trainer, key):
            value = FIELDS[key].initial()
        if isinstance(value, int) and key in FIELDS and FIELDS[key].type is float:
            return float(value)
        return list(value) if isinstance(value, tuple) else value  # as JSON stores it

    @property
    def row(self) -> tuple:
        """What its row and column in a table are determined by."""
        return self.protocol, self.source, self.dataset, self.trainer, self.shots


def read_runs(
    output: Path, protocols: Sequence[str] = tuple(PROTOCOLS), metrics: Sequence[str] = (ACCURACY,)
) -> tuple[list[Run], list[str]]:
    """Read all results below a folder.

    Args:
        output: the folder.
        protocols: names of the protocols to read.
        metrics: names of the metrics to read.

    Returns:
        The runs, and one line for each `result.json` that cannot be read.

    Raises:
        ValueError: these protocols have no results.
    """
    runs: list[Run] = []
    problems: list[str] = []
    names = registry_names()
    for path in sorted(output.rglob(results.FILE_NAME)):
        try:
            result = results.read(path)
            if result.protocol in protocols:
                runs += runs_of(result, path, names, metrics)
        except ResultError as error:
            if results.protocol_of(path) in (None, *protocols):
                problems.append(str(error))
    if not runs and not problems:
        raise ValueError(
            f"{output}: no result.json of {', '.join(protocols)}; expected the folder that --output named. Run `caspl "
            "reproduce` first, or name another folder"
        )
    return runs, problems


def registry_names() -> dict[str, str]:
    """Return {name of a file in configs/datasets: registered name}."""
    return {name: yaml.safe_load(path.read_text())["DATASET"]["NAME"] for name, path in dataset_files().items()}


def runs_of(result: Result, path: Path, names: dict[str, str], metrics: Sequence[str] = (ACCURACY,)) -> Iterator[Run]:
    """Yield the runs in a result: one, or one for each tested dataset.

    Args:
        result: the result.
        path: its file, for messages.
        names: what `registry_names` returns.
        metrics: names of the metrics; results without one of them have no figure for it.
    """
    rules, dataset = result.rules, names.get(result.dataset, result.dataset)
    source = dataset if rules.target_options is not None else ""
    tested = {dataset: _figures(rules, metrics, {name: result.evaluations[name] for name in rules.tests})}
    for target, evaluation in result.targets.items():
        tested[names.get(target, target)] = _figures(rules, metrics, dict.fromkeys(rules.tests, evaluation))
    data = result.data.get(result.dataset, {}).get("fingerprint", "")
    for name, figures in tested.items():
        where = (result.protocol, name, source, result.trainer, result.seed, result.shots)
        yield Run(*where, figures, _phase_1_classes(result), path, _settings(result), data, varied=dict(result.varied))


def _figures(rules: Protocol, metrics: Iterable[str], evaluations: dict) -> dict[str, float]:
    found: dict[str, float] = {}
    for metric in metrics:
        if all(metric in evaluation for evaluation in evaluations.values()):
            for column, value in rules.figures(evaluations, metric).items():
                found[column_name(rules, column, metric)] = value
    return found


def column_name(rules: Protocol, column: str, metric: str) -> str:
    """Return the name of a column of a metric in a protocol's table."""
    if metric == ACCURACY:
        return column
    return f"{column} {metric}" if rules.layout == "columns" else metric


# Settings that a table shows anyway, or that change no number.
_NO_SETTING = ("SEED", "DATASET.NAME", "DATASET.NUM_SHOTS", "VERSION", "TRAIN.CHECKPOINT_FREQ")
# Zero-shot results keep the whole configuration.
_OF_TRAINING = ("TRAINER.", "OPTIM.", "TRAIN.", "DATALOADER.TRAIN_X.")


def _settings(result: Result) -> dict[str, Any]:
    found = {
        key: value
        for key, value in _leaves(result.configuration)
        if key not in _NO_SETTING
        and not is_place(key)
        and not (result.trainer == "ZeroshotCLIP" and key.startswith(_OF_TRAINING))
    }
    found |= result.varied
    boosting = result.boosting or {}
    if boosting:
        found[PROMPT] = (boosting.get("identity") or boosting.get("sha256") or "")[:8]
    if result.trainer.startswith("CasPL"):
        found["phase 1 classes"] = _phase_1_classes(result)
    return found


@functools.cache
def _reads(trainer: str, key: str) -> bool:
    """Return whether a trainer reads a key; the hosts' packages declare theirs."""
    if key.startswith("TRAINER.") and key not in FIELDS:
        importlib.import_module("..hosts", __package__)
    return "." in key and reads(trainer, key)


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _phase_1_classes(result: Result) -> str:
    if not result.trainer.startswith("CasPL"):
        return ""
    found = {str(item["classes"]) for item in result.ledger if item["phase"] == "boosting"}
    return ", ".join(sorted(found)) or NOT_RECORDED


def read_paper(folder: Path = PAPER) -> dict[tuple[str, str, str, str], float]:
    """Return the paper's figures in per cent by (protocol, dataset, trainer, column).

    The dataset may be "Average"; the columns are those of this package's tables: base, new and hm, or a number of shots.
    """
    figures = {}
    with open(folder / "base2new.csv", newline="") as stream:
        for row in csv.DictReader(stream):
            for column in PROTOCOLS["base2new"].columns:
                figures["base2new", row["dataset"], _trainer(row["method"]), column.name] = float(row[column.name])
    with open(folder / "few_shot_average.csv", newline="") as stream:
        for row in csv.DictReader(stream):
            figures["few_shot", "Average", _trainer(row["method"]), row["shots"]] = float(row["accuracy"])
    return figures


@dataclass(frozen=True)
class Neighbour:
    """The published average of another method over the paper's datasets.

    Attributes:
        method: its name.
        source: where it is published.
        figures: {"base"|"new"|"hm": per cent}.
    """

    method: str
    source: str
    figures: dict[str, float]

    @property
    def trainer(self) -> str:
        """Its name as a trainer of this package has it."""
        return _trainer(self.method).replace("CasPL+", "CasPL_")

    @property
    def remark(self) -> str:
        """How its epoch was selected, if that was on the test set."""
        return SELECTED_ON_TEST if "PromptKD" in self.method else ""


def read_neighbours(folder: Path = PAPER) -> list[Neighbour]:
    """Return the published base-to-new averages of other methods, worst harmonic mean first."""
    columns = [column.name for column in PROTOCOLS["base2new"].columns]
    with open(folder / "neighbours_base2new_average.csv", newline="") as stream:
        return [
            Neighbour(row["method"], row["source"], {column: float(row[column]) for column in columns})
            for row in csv.DictReader(stream)
        ]


def published(folder: Path = PAPER) -> dict[tuple[str, str, str, str], float]:
    """Return the paper's figures, and the neighbours' averages.

    The latter are those of trainers that the paper does not have.
    """
    found = {
        ("base2new", "Average", neighbour.trainer, column): figure
        for neighbour in read_neighbours(folder)
        for column, figure in neighbour.figures.items()
    }
    return found | read_paper(folder)


def _trainer(method: str) -> str:
    return "ZeroshotCLIP" if method == "CLIP" else method
