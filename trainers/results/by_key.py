"""Tables over the values of a key: what an ablation finds. Results of different settings never share a cell."""

import csv
import io
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tabulate import tabulate

from ..experiments.protocols import PROTOCOLS, Protocol
from .formats import escaped, signs
from .paired import LEVEL, Difference, paired
from .read import PROMPT, Run
from .summary import AVERAGE, in_order

BASELINE = "(not read)"  # the value of runs that do not depend on the key
LEGEND = (
    f"Accuracies in per cent: mean ± sample standard deviation over the seeds. Difference: points over the first value, "
    f"paired over the seeds, ± half of the {LEVEL} % confidence interval (Student's t)."
)


@dataclass(frozen=True)
class Line:
    """A trainer with one value of the key on a dataset.

    Attributes:
        dataset, trainer: the row.
        value: of the key; `BASELINE` for a trainer that does not read it.
        others: further settings that distinguish it, in words.
        figures: {column: {seed: figure}}.
        differences: {column: over the first value of the same trainer}.
    """

    dataset: str
    trainer: str
    value: str
    others: str
    figures: Mapping[str, Mapping[int | None, float]]
    differences: Mapping[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True)
class KeyTable:
    """The lines of a protocol, source and number of shots.

    Attributes:
        key: the key.
        protocol: its name.
        source: the dataset trained on, where others are tested; else empty.
        shots: images per class.
        columns: names of the figures.
        lines: in the order of datasets, trainers and values.
    """

    key: str
    protocol: str
    source: str
    shots: int | None
    columns: tuple[str, ...]
    lines: list[Line]

    @property
    def title(self) -> str:
        """Its heading."""
        source = f" from {self.source}" if self.source else ""
        shots = f", {self.shots} shot{'s' * (self.shots != 1)}" if self.shots else ""
        return f"{PROTOCOLS[self.protocol].title}{source}{shots}, by {self.key}"


def tables(runs: Sequence[Run], key: str) -> list[KeyTable]:
    """Return the tables over a key.

    Args:
        runs: the runs.
        key: a configuration key, or one as `--vary` takes it ("boost:KEY"). The prefix may be left out if it is unique.

    Raises:
        ValueError: no run records the key, or two files are of the same run.
    """
    key = _with_prefix(runs, key)
    if not any(key in run.settings for run in runs):
        known = sorted({name for run in runs for name in run.settings if "." in name})
        raise ValueError(
            f"--by: no result records {key}; expected one of {', '.join(known[:8]) or 'the keys that varied'}"
        )
    varying = {run.trainer for run in runs if key in run.varied}
    together = {name for run in runs if key in run.varied for name in run.varied}
    groups: dict[tuple, list[Run]] = defaultdict(list)
    for run in runs:
        unrelated = together and not together.issuperset(run.varied)
        if unrelated or (run.trainer in varying and key not in run.varied):
            continue  # another ablation in the same folder
        groups[run.protocol, run.source, run.shots].append(run)
    found = []
    for (protocol, source, shots), members in groups.items():
        if shots is None and any(group[:2] == (protocol, source) and group[2] for group in groups):
            continue  # untrained runs are in the tables of the trained ones
        untrained = groups.get((protocol, source, None), []) if shots is not None else []
        columns = tuple(dict.fromkeys(column for run in members for column in run.figures))
        found.append(
            KeyTable(key, protocol, source, shots, columns, _lines([*untrained, *members], key, PROTOCOLS[protocol]))
        )
    return found


def _with_prefix(runs: Sequence[Run], key: str) -> str:
    """Return the varied key that `key` denotes, with its prefix."""
    varied = {name for run in runs for name in run.varied}
    prefixed = [name for name in varied if name.partition(":")[2] == key]
    return prefixed[0] if key not in varied and len(prefixed) == 1 else key


def _lines(runs: Sequence[Run], key: str, rules: Protocol) -> list[Line]:
    cells: dict[tuple[str, str], dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        cells[run.dataset, run.trainer][_value(run, key)].append(run)
    trainers, lines = in_order({run.trainer for run in runs}), []
    for dataset in dict.fromkeys(run.dataset for run in runs):
        for trainer in trainers:
            values = cells.get((dataset, trainer), {})
            of_trainer = [
                line for value in sorted(values, key=order_of) for line in _of_value(values[value], key, value)
            ]
            lines += _compared(of_trainer)
    return lines + _averages(lines, rules)


def _value(run: Run, key: str) -> str:
    """Return the value that an ablation gave the key, else the recorded one."""
    value = run.setting(key)
    return run.varied.get(key) or (BASELINE if value is None else str(value))


def _of_value(runs: list[Run], key: str, value: str) -> list[Line]:
    """Return a line for each setting other than the key."""
    differing = sorted(
        name for name in {name for run in runs for name in run.settings} - {key}
        if len({str(run.setting(name)) for run in runs}) > 1
    )  # fmt: skip
    if len(differing) > 1:
        differing = [name for name in differing if name != PROMPT]  # it follows from the others
    lines: dict[str, dict[str, dict[int | None, float]]] = {}
    paths: dict[tuple, Any] = {}
    for run in runs:
        others = ", ".join(f"{name} {run.settings[name]}" for name in differing if name in run.settings)
        if (first := paths.setdefault((others, run.seed), run.path)) != run.path:
            raise ValueError(
                f"{run.path}: of the same run as {first}; expected one file for each run. Move one of them away"
            )
        figures = lines.setdefault(others, defaultdict(dict))
        for column, figure in run.figures.items():
            figures[column][run.seed] = figure
    return [Line(runs[0].dataset, runs[0].trainer, value, others, figures) for others, figures in lines.items()]


def _compared(lines: list[Line]) -> list[Line]:
    """Add the differences from the first line with the same other settings."""
    first: dict[str, Line] = {}
    found = []
    for line in lines:
        reference = first.setdefault(line.others, line)
        differences = {
            column: paired(seeds, reference.figures.get(column, {}))
            for column, seeds in line.figures.items()
            if reference is not line
        }
        found.append(Line(line.dataset, line.trainer, line.value, line.others, line.figures, differences))
    return found


def _averages(lines: list[Line], rules: Protocol) -> list[Line]:
    """Return lines of the averages over the datasets that all values of a trainer have; none with one dataset."""
    datasets = list(dict.fromkeys(line.dataset for line in lines))
    if len(datasets) < 2:
        return []
    groups: dict[tuple[str, str, str], list[Line]] = defaultdict(list)
    for line in lines:
        groups[line.trainer, line.value, line.others].append(line)
    made: dict[str, list[Line]] = defaultdict(list)
    for (trainer, value, others), members in groups.items():
        if len(members) == len(datasets):
            figures = {column: _mean_of(members, column) for column in members[0].figures}
            figures |= _combined(figures, rules)
            made[trainer].append(Line(AVERAGE, trainer, value, others, figures))
    return [line for found in made.values() for line in _compared(found)]


def _combined(figures: Mapping[str, Mapping[int | None, float]], rules: Protocol) -> dict[str, dict[int | None, float]]:
    """Return columns such as the harmonic mean, computed from averages as in the paper."""
    found = {}
    for column in rules.columns:
        if column.combine is not None and all(part in figures for part in (column.name, *column.of)):
            parts = [figures[part] for part in column.of]
            found[column.name] = {seed: column.combine(*(part[seed] for part in parts)) for seed in parts[0]}
    return found


def _mean_of(lines: list[Line], column: str) -> dict[int | None, float]:
    shared = set.intersection(*(set(line.figures.get(column, {})) for line in lines))
    return {seed: statistics.mean(line.figures[column][seed] for line in lines) for seed in shared}


def order_of(value: str) -> tuple:
    """Sort numbers by size, then texts; runs that do not read the key come first."""
    try:
        return (1, float(value), "")
    except ValueError:
        return (0 if value == BASELINE else 2, 0.0, value)


def markdown(found: Sequence[KeyTable]) -> str:
    """Return the tables as Markdown."""
    parts = []
    for table in found:
        headers = _headers(table)
        rows = [_row(table, line) for line in table.lines]
        text = tabulate(rows, headers, tablefmt="github", disable_numparse=True)
        parts.append(f"## {table.title}\n\n{LEGEND}\n\n{text}\n")
    return "\n".join(parts)


def latex(found: Sequence[KeyTable]) -> str:
    """Return a table environment each (package: booktabs)."""
    parts = []
    for table in found:
        headers, rows = _headers(table), [_row(table, line) for line in table.lines]
        text = tabulate(rows, headers, tablefmt="latex_booktabs", disable_numparse=True)
        caption = escaped(f"{table.title}. {LEGEND}")
        parts.append(f"\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n{text}\n\\end{{table}}\n")
    return signs("\n".join(parts))


def csv_text(found: Sequence[KeyTable]) -> str:
    """Return one line a cell; what is missing is empty."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records(found))
    return stream.getvalue()


def json_text(found: Sequence[KeyTable]) -> str:
    """Return a list of records with the keys `FIELDS`."""
    return json.dumps(records(found), indent=1) + "\n"


def _headers(table: KeyTable) -> list[str]:
    heads = ["dataset", "method", table.key, *(["other settings"] if _has_others(table) else [])]
    return heads + [head for column in table.columns for head in (column, "difference")]


def _has_others(table: KeyTable) -> bool:
    return any(line.others for line in table.lines)


def _row(table: KeyTable, line: Line) -> list[str]:
    row = [line.dataset, line.trainer, line.value, *([line.others] if _has_others(table) else [])]
    for column in table.columns:
        row += [mean_std(line.figures.get(column, {})), difference_text(line.differences.get(column))]
    return row


def mean_std(seeds: Mapping[int | None, float]) -> str:
    """Return "mean ± standard deviation"; "—" without a figure."""
    values = list(seeds.values())
    if not values:
        return "—"
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def difference_text(difference: Difference | None) -> str:
    """Return "+mean ± half the interval"; empty without a difference."""
    if difference is None or difference.mean is None:
        return ""
    interval = "" if difference.interval is None else f" ± {difference.interval:.2f}"
    return f"{difference.mean:+.2f}{interval}".replace("-", "−")


FIELDS = (
    *(
        "key",
        "value",
        "protocol",
        "source",
        "shots",
        "dataset",
        "trainer",
        "settings",
        "metric",
        "mean",
        "std",
        "seeds",
    ),
    *("difference", "interval", "paired_seeds"),
)


def records(found: Sequence[KeyTable]) -> list[dict]:
    """Return one record a cell with the keys `FIELDS`; what is missing is None."""
    made = []
    for table in found:
        for line in table.lines:
            for column, seeds in line.figures.items():
                values, none = list(seeds.values()), Difference()
                change = line.differences.get(column, none)
                std = statistics.stdev(values) if len(values) > 1 else None
                cell = (table.key, line.value, table.protocol, table.source, table.shots, line.dataset, line.trainer)
                figures = (line.others, column, statistics.mean(values), std, len(values))
                made.append(
                    dict(zip(FIELDS, (*cell, *figures, change.mean, change.interval, change.seeds), strict=True))
                )
    return made


FORMATS = {"md": markdown, "csv": csv_text, "latex": latex, "json": json_text}
