"""`result.json`, the only record of a protocol's run: its schema, its writer and its reader."""

import dataclasses
import json
import math
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..storage.atomic import replacing
from .protocols import ACCURACY, PROTOCOLS, Evaluations, Protocol

FILE_NAME = "result.json"
VERSION = 2  # version 1 is that of 0.1.0, which did not record it
SIZE_LIMIT = 16 << 20  # bytes
_REMEDY = "Remove it, and the same command writes it again"


class ResultError(ValueError):
    """A `result.json` that cannot be read."""


@dataclass(frozen=True)
class Result:
    """The figures of a run in a protocol, and what they were computed with.

    Attributes:
        protocol: name of the protocol.
        dataset: name of a file in configs/datasets.
        trainer: a host, `CasPL_<Host>`, `ZeroshotCLIP`, or `CasPL` (CLIP with the boosting prompt alone).
        evaluations: {test set: {metric: value}}; the test sets of the protocol, and the target datasets if it has them.
        seed: seed of phase 2; None without phase 2.
        shots: images per class in phase 2; None without phase 2.
        seconds: duration of training and testing.
        boosting: the boosting prompt in use, as its file records it (see `comparison.boosting_record`); None without one.
        data: {dataset: its fingerprint and folder}; empty in files of version 0.1.0.
        weights: {key: SHA-256} of the weight files that the configuration names; empty in earlier files.
        configuration: the run's settings.
        ledger: the provenance of each phase.
        varied: {key: value} of the run's settings that an ablation varies (see `variations`).
        template: the template set by `DATASET.TEMPLATE`, of a file with its hash; empty with the dataset's own.
        versions: {package: version} of the software.
        version: version of this schema.
    """

    protocol: str
    dataset: str
    trainer: str
    evaluations: Evaluations
    seed: int | None = None
    shots: int | None = None
    seconds: float = 0.0
    boosting: Mapping[str, Any] | None = None
    data: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    configuration: Mapping[str, Any] = field(default_factory=dict)
    ledger: list[dict] = field(default_factory=list)
    varied: Mapping[str, str] = field(default_factory=dict)
    template: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    version: int = VERSION

    @property
    def rules(self) -> Protocol:
        """The protocol's entry."""
        return PROTOCOLS[self.protocol]

    @property
    def host(self) -> str | None:
        """The host trainer; None if nothing was trained in phase 2."""
        return None if self.seed is None else self.trainer.removeprefix("CasPL_")

    @property
    def targets(self) -> dict[str, Mapping[str, float]]:
        """{target dataset: {metric: value}}."""
        return {name: metrics for name, metrics in self.evaluations.items() if name not in self.rules.tests}

    @property
    def figures(self) -> dict[str, float]:
        """{column: accuracy in per cent} of the protocol's table."""
        return self.rules.figures(self.evaluations)

    def write(self, folder: Path) -> None:
        """Write `result.json` to a run's folder.

        The headline figures are at its top level, as in version 0.1.0.
        """
        values = {"version": self.version} | dataclasses.asdict(self) | {"host": self.host} | self.figures
        if self.rules.target_options is not None:
            values["targets"] = {name: metrics[ACCURACY] for name, metrics in self.targets.items()}
        with replacing(folder / FILE_NAME) as aside:
            aside.write_text(json.dumps(values, indent=2) + "\n")


def read(path: Path) -> Result:
    """Read a `result.json` of this version or of 0.1.0.

    Args:
        path: the file.

    Raises:
        ResultError: it is not a regular file, too large, damaged, or of a newer version; the message names the file.
    """
    try:
        return _result(_content(path), path)
    except ResultError as error:
        raise ResultError(f"{path}: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
        found = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ResultError(f"{path}: {found}; expected the result of a run. {_REMEDY}") from error


def _content(path: Path) -> dict[str, Any]:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ResultError("not a regular file; expected the result of a run. Remove it, or give another folder")
    if status.st_size > SIZE_LIMIT:
        raise ResultError(f"{status.st_size:,} bytes; expected at most {SIZE_LIMIT:,}. {_REMEDY}")
    try:
        content = json.loads(path.read_text())
    except RecursionError as error:
        raise ResultError(f"nested too deeply; expected the result of a run. {_REMEDY}") from error
    except ValueError as error:
        raise ResultError(f"not JSON ({error}); expected the result of a run. {_REMEDY}") from error
    if not isinstance(content, dict):
        raise ResultError(f"a {type(content).__name__}; expected the result of a run. {_REMEDY}")
    return content


def _result(content: dict[str, Any], path: Path) -> Result:
    version = content.get("version", 1)
    if version not in (1, VERSION):
        raise ResultError(f"'version' is {version!r}; expected {VERSION} or lower. Update this package")
    protocol = content.get("protocol") or protocol_of(path)
    if protocol not in PROTOCOLS:
        raise ResultError(f"'protocol' is {protocol!r}; expected one of {', '.join(PROTOCOLS)}. {_REMEDY}")
    evaluations = _evaluations(
        content if version > 1 else content | {"evaluations": _old(content, PROTOCOLS[protocol])}
    )
    names = {item.name for item in dataclasses.fields(Result)} & set(content)
    values = {name: content[name] for name in names}
    values |= {
        "protocol": protocol,
        "evaluations": evaluations,
        "version": version,
        "ledger": content.get("ledger") or [],
    }
    for name, kinds in _KINDS.items():
        value = content.get(name) if name in _OPTIONAL else content[name]
        if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
            raise ResultError(f"'{name}' is {value!r}; expected {_named(kinds)}. {_REMEDY}")
    result = Result(**values)
    if missing := [test for test in result.rules.tests if test not in evaluations]:
        raise KeyError(missing[0])
    for item in result.ledger:
        (item["phase"], item["classes"])
    for record in result.data.values():
        record["fingerprint"]
    return result


_OPTIONAL = ("seconds", "boosting", "data", "weights", "configuration", "template", "varied")
_KINDS: dict[str, tuple[type, ...]] = {
    "dataset": (str,),
    "trainer": (str,),
    "seed": (int,),
    "shots": (int,),
    "seconds": (int, float),
    "boosting": (dict,),
    "data": (dict,),
    "weights": (dict,),
    "configuration": (dict,),
    "template": (str,),
    "varied": (dict,),
}


def _named(kinds: tuple[type, ...]) -> str:
    return " or ".join(kind.__name__ for kind in kinds)


def _old(content: dict[str, Any], rules: Protocol) -> dict[str, dict[str, Any]]:
    """Return the evaluations in a file of version 0.1.0, which has accuracies at its top level."""
    columns = {column.of[0]: column.name for column in rules.columns if column.combine is None}
    found = {test: {ACCURACY: content[columns[test]]} for test in rules.tests}
    if rules.target_options is not None:
        found |= {name: {ACCURACY: accuracy} for name, accuracy in content["targets"].items()}
    return found


def _evaluations(content: dict[str, Any]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for test, metrics in content["evaluations"].items():
        found[test] = {metric: _number(f"{test} {metric}", metric, value) for metric, value in metrics.items()}
        if ACCURACY not in found[test]:
            raise KeyError(f"{test} {ACCURACY}")
    return found


def _number(name: str, metric: str, value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or (metric == ACCURACY and not 0 <= value <= 100):
        expected = "an accuracy from 0 to 100" if metric == ACCURACY else "a finite number"
        raise ResultError(f"'{name}' is {value!r}; expected {expected}. {_REMEDY}")
    return float(value)


def protocol_of(path: Path) -> str | None:
    """Return the protocol that a result's folder is named after (early results do not record it)."""
    return next((part for part in reversed(path.absolute().parts) if part in PROTOCOLS), None)
