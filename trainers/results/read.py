"""Reading what the protocols left: every result.json under a folder, checked, and the paper's figures."""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..experiments.places import dataset_files

PROTOCOLS = ("base2new", "few_shot", "cross_dataset")
ACCURACY = {"base2new": ("base", "new", "hm"), "few_shot": ("accuracy",), "cross_dataset": ("accuracy",)}
PAPER = Path(__file__).resolve().parent / "paper"  # its figures
NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Run:
    """What one run reached on one dataset.

    Attributes:
        protocol: one of `PROTOCOLS`.
        dataset, source: registry names; the source is "" but for cross_dataset.
        trainer: CasPL_CoOp, CoOp, ZeroshotCLIP, CasPL (the boosting prompt alone), ...
        seed, shots: None where nothing was trained.
        figures: accuracies in per cent, under the names in `ACCURACY`.
        classes: whose names phase 1 was given ("all", "base", `NOT_RECORDED`); "" where there is no phase 1.
        path: the result.json.
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


def read_runs(output: Path, protocols: tuple[str, ...] = PROTOCOLS) -> tuple[list[Run], list[str]]:
    """All runs under `output`, and one sentence about each result.json that cannot be read.

    Raises:
        ValueError: there is no result.json of these protocols at all.
    """
    runs, problems, names, seen = [], [], registry_names(), {}
    for path in sorted(output.rglob("result.json")):
        try:
            found = [run for run in parse(path, names) if run.protocol in protocols]
            for run in found:
                key = (run.protocol, run.source, run.dataset, run.trainer, run.shots, run.seed)
                if seen.setdefault(key, path) != path:
                    raise ValueError(f"it is of the same run as {seen[key]}; expected one a run: move one of them away")
            runs += found
        except (OSError, ValueError) as error:
            if _protocol_of(path) in (None, *protocols):
                problems.append(f"{path}: {error}")
    if not runs and not problems:
        raise ValueError(
            f"no result.json of {', '.join(protocols)} under {output}: run `bash scripts/caspl/reproduce.sh` first, or "
            "name the folder that its --output named"
        )
    return runs, problems


def registry_names() -> dict[str, str]:
    """File name in configs/datasets (without ending) to registry name."""
    return {name: yaml.safe_load(path.read_text())["DATASET"]["NAME"] for name, path in dataset_files().items()}


def parse(path: Path, names: dict[str, str]) -> list[Run]:
    """The runs in one result.json: one, or one for each dataset that it was tested on (cross_dataset).

    Raises:
        ValueError: it is damaged; says what was found, what was expected, and what to do.
    """
    remedy = "remove it, and the same command makes it again"
    try:
        result = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"no JSON ({error}): {remedy}") from error
    try:
        return list(_runs(path, result, names))
    except KeyError as error:
        raise ValueError(f"it has no {error}: {remedy}") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{error}: {remedy}") from error


def _runs(path: Path, result: dict, names: dict[str, str]):
    protocol = result.get("protocol") or _protocol_of(path)
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}, expected one of {', '.join(PROTOCOLS)}")
    for key, kinds in {"dataset": str, "trainer": str, "seed": int | None, "shots": int | None}.items():
        if not isinstance(result[key], kinds):
            raise ValueError(f"{key!r} is {result[key]!r}, expected {getattr(kinds, '__name__', kinds)}")
    dataset = names.get(result["dataset"], result["dataset"])
    tested = {dataset: {key: _per_cent(key, result[key]) for key in ACCURACY[protocol]}}
    if protocol == "cross_dataset":
        for name, accuracy in result["targets"].items():
            tested[names.get(name, name)] = {"accuracy": _per_cent(f"targets.{name}", accuracy)}
    source = dataset if protocol == "cross_dataset" else ""
    for name, figures in tested.items():
        where = (protocol, name, source, result["trainer"], result["seed"], result["shots"])
        yield Run(*where, figures, _phase_1_classes(result), path)


def _protocol_of(path: Path) -> str | None:
    """Results of before the key existed: the folder's name says it."""
    return next((part for part in reversed(path.absolute().parts) if part in PROTOCOLS), None)


def _per_cent(key: str, value) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value <= 100
        or not math.isfinite(value)
    ):
        raise ValueError(f"{key!r} is {value!r}, expected an accuracy from 0 to 100")
    return float(value)


def _phase_1_classes(result: dict) -> str:
    if not result["trainer"].startswith("CasPL"):
        return ""
    found = {item["classes"] for item in result.get("ledger") or [] if item["phase"] == "boosting"}
    return ", ".join(sorted(found)) or NOT_RECORDED


def read_paper(folder: Path = PAPER) -> dict[tuple[str, str, str, str], float]:
    """The paper's figures in per cent, by (protocol, dataset, trainer, column); the dataset may be "Average".

    The columns are those of our tables: base, new and hm; the number of shots.
    """
    figures = {}
    with open(folder / "base2new.csv", newline="") as stream:
        for row in csv.DictReader(stream):
            for column in ACCURACY["base2new"]:
                figures["base2new", row["dataset"], _trainer(row["method"]), column] = float(row[column])
    with open(folder / "few_shot_average.csv", newline="") as stream:
        for row in csv.DictReader(stream):
            figures["few_shot", "Average", _trainer(row["method"]), row["shots"]] = float(row["accuracy"])
    return figures


def _trainer(method: str) -> str:
    return "ZeroshotCLIP" if method == "CLIP" else method
