"""From runs to tables: means over seeds, averages over datasets, gains over the host, differences from the paper."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..experiments.protocols import ACCURACY, PAPER_HOSTS, PROTOCOLS, Column, Protocol
from .paired import paired
from .read import SELECTED_ON_TEST, Run, column_name, registry_names
from .variants import separated

AVERAGE, AVERAGE_TARGETS, AVERAGE_SHIFTED = "Average", "Average of targets", "Average of shifted"
SHIFTS = ("V2", "Sketch", "A", "R")  # what the test-only variants of a source (ImageNet, Shapes) add to its name
FAR_BELOW = 10.0  # points below the median of its siblings that make a seed a collapsed one
PAPER_SHOTS = 16  # of the paper's base-to-new table


@dataclass(frozen=True)
class Cell:
    """One figure with its statistics.

    None where there is none. Accuracies are in per cent.

    Attributes:
        mean: over the seeds; of an average row, over the datasets' means (its hm: of the average base and new).
        std: sample standard deviation over the seeds; of an average row, of the seeds' averages over the datasets.
        n: number of seeds (of an average row: of those that all its datasets have); 1 where nothing was trained.
        gain: points over the trainer without CasPL.
        gain_interval: half of the 95 % confidence interval of the gains paired over seeds; None with fewer than two seeds.
        paper, difference: the paper's figure, and the points that ours is above it.
        collapsed: {dataset: seeds} far below their siblings (see `collapsed_seeds`); they are counted nevertheless.
        datasets: of an average row, how many datasets it is over.
        gain_datasets: of an average row, over how many datasets that both have the gain is.
    """

    mean: float | None = None
    std: float | None = None
    n: int = 0
    gain: float | None = None
    paper: float | None = None
    difference: float | None = None
    collapsed: dict[str, tuple[int, ...]] = field(default_factory=dict)
    datasets: int | None = None
    gain_datasets: int | None = None
    gain_interval: float | None = None


@dataclass(frozen=True)
class Row:
    """A trainer on a dataset, with a cell per column.

    `of_datasets`: how many datasets an average row should be over.
    """

    dataset: str
    trainer: str
    classes: str
    cells: dict[str, Cell]
    of_datasets: int | None = None


@dataclass(frozen=True)
class Table:
    """A protocol's table.

    Attributes:
        columns: base, new, hm (base2new); numbers of shots, 0 where nothing was trained (few_shot); accuracy.
        seeds: the most that any cell has.
        of_paper: whether its datasets (its source) are the paper's.
        variant: the settings that distinguish its runs from those of another table; empty without another.
    """

    protocol: str
    source: str
    shots: int | None
    columns: tuple[str, ...]
    rows: list[Row]
    seeds: int
    notes: list[str]
    of_paper: bool
    variant: str = ""

    @property
    def rules(self) -> Protocol:
        """The protocol's entry."""
        return PROTOCOLS[self.protocol]


class _Group:
    """The runs of one table, by (dataset, trainer, column) and seed."""

    def __init__(
        self, protocol: str, source: str, shots: int | None, runs: list[Run], paper: dict, metrics: Sequence[str]
    ):
        self.protocol, self.source, self.shots = protocol, source, shots
        self.rules, self.metrics = PROTOCOLS[protocol], metrics
        self.variant = runs[0].variant
        self.figures: dict[tuple[str, str, str], dict] = defaultdict(dict)
        self.classes: dict[tuple[str, str], set[str]] = defaultdict(set)
        for run in runs:
            for name, value in run.figures.items():
                self.figures[run.dataset, run.trainer, self._column(run, name)][run.seed] = value
            self.classes[run.dataset, run.trainer].add(run.classes)
        self.selected = {(run.dataset, run.trainer) for run in runs if run.selected_on_test}
        self.trainers = in_order({run.trainer for run in runs})
        self.paper = paper if shots in (None, PAPER_SHOTS) else {}
        self.paper_datasets = list(dict.fromkeys(key[1] for key in paper if key[1] != AVERAGE))
        self.datasets = self._datasets({run.dataset for run in runs})
        self.columns = self._columns({key[2] for key in self.figures})

    def _column(self, run: Run, name: str) -> str:
        if self.rules.layout != "shots":
            return name
        return str(run.shots or 0) if name == ACCURACY else f"{run.shots or 0} {name}"

    def _datasets(self, seen: set[str]) -> list[str]:
        """Return the datasets seen; with one of the paper's, all of the paper's, so that missing ones are shown."""
        order = [self.source, *self.paper_datasets, *(self.source + shift for shift in SHIFTS)]
        if self.rules.layout == "targets" and self.source in self.paper_datasets:
            seen = seen | set(self.paper_datasets) | (set(registry_names().values()) & set(order[-len(SHIFTS) :]))
        elif seen & set(self.paper_datasets):
            seen = seen | set(self.paper_datasets)
        return sorted(seen, key=lambda name: (order.index(name) if name in order else len(order), name))

    def _columns(self, seen: set[str]) -> tuple[str, ...]:
        if self.rules.layout == "shots":
            if set(self.datasets) & set(self.paper_datasets):
                seen = seen | {key[3] for key in self.paper if key[0] == self.protocol}
            order = {"": 0} | {metric: place for place, metric in enumerate(self.metrics)}
            return tuple(sorted(seen, key=lambda name: (order.get(name.partition(" ")[2], 0), int(name.split()[0]))))
        names = [
            column_name(self.rules, column.name, metric) for metric in self.metrics for column in self.rules.columns
        ]
        return tuple(dict.fromkeys(name for name in names if name in seen))

    def cell(self, dataset: str, trainer: str, column: str) -> Cell:
        """Mean and standard deviation over the seeds."""
        values = self.figures.get((dataset, trainer, column), {})
        if not values:
            return Cell()
        collapsed = collapsed_seeds(values)
        std = statistics.stdev(values.values()) if len(values) > 1 else None
        return Cell(
            statistics.mean(values.values()), std, len(values), collapsed={dataset: collapsed} if collapsed else {}
        )

    def average_cell(self, datasets: list[str], trainer: str, column: str) -> Cell:
        """Return the average over those of the datasets that the trainer has."""
        there = self._have(datasets, trainer, column)
        if not there:
            return Cell(datasets=0)
        shared = set.intersection(*(set(self.figures[name, trainer, column]) for name in there))
        over_seeds = [self._average(there, trainer, column, {seed}) for seed in shared]
        collapsed: dict[str, tuple[int, ...]] = {}
        for name in there:
            collapsed |= self.cell(name, trainer, column).collapsed
        std = statistics.stdev(over_seeds) if len(over_seeds) > 1 else None
        mean = self._average(there, trainer, column)
        return Cell(mean, std, len(shared), collapsed=collapsed, datasets=len(there))

    def _have(self, datasets: list[str], trainer: str, column: str) -> list[str]:
        return [name for name in datasets if self.figures.get((name, trainer, column))]

    def _average(self, datasets: list[str], trainer: str, column: str, seeds: set | None = None) -> float:
        combined = self._combined(column)
        if combined is not None and combined.combine is not None:  # of the averages, as in the paper
            return combined.combine(*(self._average(datasets, trainer, part, seeds) for part in combined.of))
        cells = [self.figures[name, trainer, column] for name in datasets]
        return statistics.mean(
            statistics.mean(value for seed, value in cell.items() if seeds is None or seed in seeds) for cell in cells
        )

    def _combined(self, name: str) -> Column | None:
        return next((column for column in self.rules.columns if column.name == name and column.combine), None)

    def row(self, dataset: str, trainer: str) -> Row:
        """Return the row of a trainer on a dataset, with gains over the trainer without CasPL and the paper's figures."""
        cells = {}
        for column in self.columns:
            cell, host = self.cell(dataset, trainer, column), self.cell(dataset, plain(trainer), column)
            if plain(trainer) != trainer:
                interval = self._gain_interval([dataset], trainer, column)
                cell = replace(cell, gain=_minus(cell.mean, host.mean), gain_interval=interval)
            cells[column] = self._with_paper(cell, dataset, trainer, column)
        return Row(dataset, trainer, self._classes([dataset], trainer), cells)

    def average_row(self, label: str, datasets: list[str], trainer: str) -> Row:
        """Return the row of an average.

        Its gain is over the datasets that both trainers have, its difference only where it is over the paper's.
        """
        cells = {}
        for column in self.columns:
            cell = self.average_cell(datasets, trainer, column)
            both = self._have(self._have(datasets, trainer, column), plain(trainer), column)
            if both and plain(trainer) != trainer:
                gain = self._average(both, trainer, column) - self._average(both, plain(trainer), column)
                interval = self._gain_interval(both, trainer, column)
                cell = replace(cell, gain=gain, gain_datasets=len(both), gain_interval=interval)
            if set(datasets) == set(self.paper_datasets):
                cell = self._with_paper(cell, label, trainer, column, whole=cell.datasets == len(datasets))
            cells[column] = cell
        return Row(label, trainer, self._classes(datasets, trainer), cells, len(datasets))

    def _gain_interval(self, datasets: list[str], trainer: str, column: str) -> float | None:
        """Return half the confidence interval of the average gain, over the seeds that all runs have."""
        cells = [self.figures.get((name, one, column), {}) for name in datasets for one in (trainer, plain(trainer))]
        seeds = set.intersection(*map(set, cells)) - {None}
        ours, theirs = (
            {seed: self._average(datasets, one, column, {seed}) for seed in seeds} for one in (trainer, plain(trainer))
        )
        return paired(ours, theirs).interval

    def _with_paper(self, cell: Cell, dataset: str, trainer: str, column: str, whole: bool = True) -> Cell:
        paper = self.paper.get((self.protocol, dataset, trainer, column))
        return replace(cell, paper=paper, difference=_minus(cell.mean, paper) if whole else None)

    def _classes(self, datasets: list[str], trainer: str) -> str:
        found = set().union(*(self.classes.get((name, trainer), set()) for name in datasets))
        return ", ".join(sorted(found))

    def averages(self) -> dict[str, list[str]]:
        """Return {label of an average row: its datasets}.

        A source is not a target; its shifted variants have a separate average.
        """
        if self.rules.layout != "targets":
            return {AVERAGE: self.datasets}
        shifted = [name for name in self.datasets if name in {self.source + shift for shift in SHIFTS}]
        targets = [name for name in self.datasets if name not in (self.source, *shifted)]
        return {label: names for label, names in ((AVERAGE_TARGETS, targets), (AVERAGE_SHIFTED, shifted)) if names}

    def table(self) -> Table:
        """All rows, dataset by dataset, the averages last."""
        rows = [self.row(dataset, trainer) for dataset in self.datasets for trainer in self.trainers]
        for label, datasets in self.averages().items():
            rows += [self.average_row(label, datasets, trainer) for trainer in self.trainers]
        seeds = max(len(values) for values in self.figures.values())
        of_paper = bool({self.source, *self.datasets} & set(self.paper_datasets))
        notes = self.notes(rows)
        return Table(self.protocol, self.source, self.shots, self.columns, rows, seeds, notes, of_paper, self.variant)

    def notes(self, rows: list[Row]) -> list[str]:
        """Return notes: epochs selected on the test set, collapsed seeds, and gains over fewer datasets."""
        found = [f"On {dataset}: {trainer}, {SELECTED_ON_TEST}." for dataset, trainer in sorted(self.selected)]
        for row in rows:
            if row.of_datasets is None:
                found += [self._collapse_note(row, column) for column in row.cells if row.cells[column].collapsed]
            else:
                found += self._gain_notes(row)
        return found

    def _gain_notes(self, row: Row) -> list[str]:
        fewer = defaultdict(list)  # number of datasets that both have -> columns
        for column, cell in row.cells.items():
            if cell.gain is not None and cell.gain_datasets != cell.datasets:
                fewer[cell.gain_datasets].append(self._named(column))
        return [
            f"{row.dataset} of {row.trainer}, {', '.join(columns)}: the gain is over what both have ({number})."
            for number, columns in fewer.items()
        ]

    def _named(self, column: str) -> str:
        return f"{column} shots" if self.rules.layout == "shots" else column

    def _collapse_note(self, row: Row, column: str) -> str:
        values = self.figures[row.dataset, row.trainer, column]
        parts = []
        for seed in row.cells[column].collapsed[row.dataset]:
            median = _siblings_median(values, seed)
            parts.append(f"seed {seed} collapsed to {values[seed]:.2f} (median of its siblings {median:.2f})")
        return f"† {row.trainer} on {row.dataset}, {self._named(column)}: {'; '.join(parts)}; it is counted."


def collapsed_seeds(values: dict[int | None, float]) -> tuple[int, ...]:
    """Return the seeds whose figure is far below that of at least two siblings.

    Far is more than `FAR_BELOW` points below the median of the siblings' figures.
    """
    if len(values) < 3:
        return ()
    return tuple(
        sorted(
            seed for seed in values if seed is not None and _siblings_median(values, seed) - values[seed] > FAR_BELOW
        )
    )


def _siblings_median(values: dict, seed) -> float:
    return statistics.median(value for other, value in values.items() if other != seed)


def _minus(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else ours - theirs


def plain(trainer: str) -> str:
    """Return the trainer that a cascaded one is compared with: its host, or zero-shot CLIP.

    Any other trainer is compared with itself.
    """
    return "ZeroshotCLIP" if trainer == "CasPL" else trainer.removeprefix("CasPL_")


def in_order(seen: set[str]) -> list[str]:
    """Sort trainers: untrained CLIP first, then each host and its cascaded one.

    One of the two may be missing.
    """
    hosts = {plain(trainer) for trainer in seen} - {"ZeroshotCLIP"}
    known = [host for host in PAPER_HOSTS if host in hosts]
    pairs = [name for host in (*known, *sorted(hosts - set(known))) for name in (host, f"CasPL_{host}")]
    return [name for name in ("ZeroshotCLIP", "CasPL") if name in seen or "CasPL" in seen] + pairs


def summarise(runs: list[Run], paper: dict, metrics: Sequence[str] = (ACCURACY,)) -> list[Table]:
    """Return the tables of runs.

    There is one for each protocol, source, number of shots (few_shot: columns) and variant.

    The paper's datasets have separate tables.

    Args:
        runs: the runs.
        paper: what `read.read_paper` returns.
        metrics: the metrics to show, in this order.

    Raises:
        ValueError: two files are of the same run.
    """
    known = {key[1] for key in paper}
    groups: dict[tuple, list[Run]] = defaultdict(list)
    for run in separated(runs):
        shots = None if PROTOCOLS[run.protocol].layout == "shots" else run.shots
        groups[run.protocol, run.source, shots, not run.source and run.dataset not in known, run.variant].append(run)
    tables = []
    for key, found in sorted(groups.items(), key=_group_order):
        protocol, source, shots, other, variant = key
        same = (protocol, source, None, other, variant)
        if shots is None and any(group != same and (*group[:2], None, *group[3:]) == same for group in groups):
            continue  # untrained runs are in the tables of the trained ones
        untrained = groups.get(same, []) if shots is not None else []
        tables.append(_Group(protocol, source, shots, untrained + found, paper, metrics).table())
    return tables


def _group_order(item: tuple) -> tuple:
    protocol, source, shots, other, variant = item[0]
    return list(PROTOCOLS).index(protocol), other, source, shots or 0, variant
