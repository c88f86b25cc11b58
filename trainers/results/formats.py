"""Formats of tables: plain text, Markdown and LaTeX to read; CSV and JSON (one unrounded record per cell) to process."""

import csv
import io
import json
from typing import Any

from tabulate import tabulate

from ..experiments.protocols import ACCURACY
from .paired import LEVEL
from .summary import AVERAGE, FAR_BELOW, Cell, Row, Table

MISSING = "—"
LABELS = {"ZeroshotCLIP": "CLIP, zero-shot", "CasPL": "CLIP with the boosting prompt alone"}
LEGEND = (
    "Accuracies in per cent: mean ± sample standard deviation over the seeds{seeds}. — is missing. Gain: points over the "
    "trainer without CasPL{interval}. Phase 1 saw: the classes whose images and names it was given. "
)
PAPER_LEGEND = "Paper: the published figure (ours minus it), where there is one."
NO_PAPER_LEGEND = "The paper has no figures for this table here."
HM_LEGEND = " HM of a dataset: mean of the runs' HM; of the average: HM of the average base and new, as in the paper."
COLLAPSE_LEGEND = (
    f" †: a seed is more than {FAR_BELOW:g} points below the median of at least two siblings; it is counted."
)
FIELDS = [
    *("protocol", "source", "shots", "dataset", "trainer", "phase_1_classes", "metric", "mean", "std", "seeds"),
    *("of_seeds", "gain", "paper", "difference", "collapsed", "datasets", "of_datasets", "gain_datasets"),
    *("settings", "gain_interval"),
]


def plain(tables: list[Table]) -> str:
    """Return tables of single datasets as text, a row per trainer: what a protocol's command prints."""
    return "\n".join(_plain(table) for table in tables)


def _plain(table: Table) -> str:
    rows = [row for row in table.rows if row.dataset != AVERAGE and any(cell.n for cell in row.cells.values())]
    shown = {(row.dataset, row.trainer): row.cells for row in rows}
    parts = (
        [table.source, *(row.dataset for row in rows if row.of_datasets)] if table.rules.layout == "targets" else [""]
    )
    parts = list(dict.fromkeys(parts))
    columns = [(part, column) for part in parts for column in table.columns]
    headers = [""] + [_plain_heading(table, part, column) for part, column in columns]
    body = []
    for trainer in dict.fromkeys(row.trainer for row in rows):
        dataset = next(row.dataset for row in rows if row.trainer == trainer)
        cells = [shown.get((part or dataset, trainer), {}).get(column, Cell()) for part, column in columns]
        body.append([LABELS.get(trainer, trainer), *("" if cell.mean is None else _mean_std(cell) for cell in cells)])
    alignment = ["left", *["right"] * len(columns)]
    return tabulate(body, headers, tablefmt="simple", disable_numparse=True, colalign=alignment)


def _plain_heading(table: Table, part: str, column: str) -> str:
    heading = _heading(table, column)
    return heading if not part else part if heading == ACCURACY else f"{part} {heading}"


def _mean_std(cell: Cell) -> str:
    return f"{cell.mean:.2f}" + ("" if cell.std is None else f" ± {cell.std:.2f}")


def markdown(tables: list[Table]) -> str:
    """Return a heading, a table, and notes, for each."""
    parts = []
    for table in tables:
        text = tabulate(_body(table), _headers(table), tablefmt="github", disable_numparse=True)
        notes = "".join(f"- {note}\n" for note in table.notes)
        parts.append(f"## {title(table)}\n\n{legend(table)}\n\n{text}\n" + (f"\n{notes}" if notes else ""))
    return "\n".join(parts)


def latex(tables: list[Table]) -> str:
    """Return a table environment for each table (packages: booktabs, graphicx)."""
    parts = []
    for table in tables:
        text = tabulate(_body(table), _headers(table), tablefmt="latex_booktabs", disable_numparse=True)
        caption = escaped(f"{title(table)}. {' '.join([legend(table), *table.notes])}")
        lines = [
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{caption}}}",
            "\\resizebox{\\linewidth}{!}{%",
            f"{text}}}",
        ]
        parts.append("\n".join([*lines, "\\end{table}", ""]))
    return signs("\n".join(parts))


def signs(text: str) -> str:
    """Return a text with LaTeX's commands for signs that it lacks."""
    for sign, command in {"±": "$\\pm$", "−": "$-$", "—": "---", "†": "$^\\dagger$", "–": "--"}.items():
        text = text.replace(sign, command)
    return text


def escaped(text: str) -> str:
    """Return a text with LaTeX's special characters escaped."""
    return "".join(f"\\{sign}" if sign in "_%&#$" else sign for sign in text)


def csv_text(tables: list[Table]) -> str:
    """Return one line per cell; missing values are empty, collapsed seeds dataset:seed."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
    writer.writeheader()
    for record in records(tables):
        collapsed = (f"{name}:{seed}" for name, seeds in record["collapsed"].items() for seed in seeds)
        writer.writerow(record | {"collapsed": " ".join(collapsed)})
    return stream.getvalue()


def json_text(tables: list[Table]) -> str:
    """Return a list of records with the keys `FIELDS`; missing values are null."""
    return json.dumps(records(tables), indent=1) + "\n"


FORMATS = {"md": markdown, "csv": csv_text, "latex": latex, "json": json_text}


def records(tables: list[Table]) -> list[dict]:
    """Return one record per cell.

    `metric` is base, new, hm or accuracy; `shots` is None where nothing was trained.
    """
    return [
        _record(table, row, column, cell)
        for table in tables
        for row in table.rows
        for column, cell in row.cells.items()
    ]


def _record(table: Table, row: Row, column: str, cell: Cell) -> dict:
    by_shots = table.rules.layout == "shots"
    number, _, metric = column.partition(" ")
    shots = (int(number) or None) if by_shots else table.shots
    values: list[Any] = [table.protocol, table.source, shots, row.dataset, row.trainer, row.classes]
    values += [(metric or ACCURACY) if by_shots else column, cell.mean, cell.std, cell.n, table.seeds]
    values += [cell.gain, cell.paper, cell.difference, {name: list(seeds) for name, seeds in cell.collapsed.items()}]
    values += [cell.datasets, row.of_datasets, cell.gain_datasets, table.variant, cell.gain_interval]
    return dict(zip(FIELDS, values, strict=True))


def title(table: Table) -> str:
    """Return a table's title.

    It has the protocol, source, number of shots, and the settings that distinguish it.
    """
    source = f" from {table.source}" if table.source else ""
    shots = f", {table.shots} shot{'s' * (table.shots != 1)}" if table.shots else ""
    other = "" if table.of_paper or table.source else " (not the paper's datasets)"
    variant = f", {table.variant}" if table.variant else ""
    return f"{table.rules.title}{source}{shots}{variant}{other}"


def legend(table: Table) -> str:
    """Return how the table is to be read."""
    interval = f", ± half of the {LEVEL} % confidence interval of the differences paired over seeds (Student's t)"
    text = LEGEND.format(
        seeds=f" ({table.seeds} unless n is given)", interval=interval if _any(table, "gain_interval") else ""
    )
    text += PAPER_LEGEND if _any(table, "paper") else NO_PAPER_LEGEND
    text += HM_LEGEND if "hm" in table.columns else ""
    return text + (COLLAPSE_LEGEND if any(cell.collapsed for row in table.rows for cell in row.cells.values()) else "")


def _any(table: Table, name: str, column: str | None = None) -> bool:
    cells = [row.cells[key] for row in table.rows for key in row.cells if column in (None, key)]
    return any(getattr(cell, name) is not None for cell in cells)


def _headers(table: Table) -> list[str]:
    headers = ["dataset", "method", "phase 1 saw"]
    for column in table.columns:
        headers += [
            _heading(table, column),
            *(["gain"] if _shows_gain(table, column) else []),
            *_paper_header(table, column),
        ]
    return headers


def _heading(table: Table, column: str) -> str:
    number, _, metric = column.partition(" ")
    if table.rules.layout == "shots":
        return " ".join(
            filter(None, ["no shots" if number == "0" else f"{number} shot{'s' * (number != '1')}", metric])
        )
    titles = {entry.name: entry.title for entry in table.rules.columns}
    return " ".join(filter(None, [titles.get(number, number), metric]))


def _paper_header(table: Table, column: str) -> list[str]:
    return ["paper"] if _any(table, "paper", column) else []


def _shows_gain(table: Table, column: str) -> bool:
    return _any(table, "gain", column)


def _body(table: Table) -> list[list[str]]:
    body, before = [], None
    for row in table.rows:
        line = [row.dataset if row.dataset != before else "", row.trainer, _classes(row)]
        before = row.dataset
        for column, cell in row.cells.items():
            untrained = row.trainer in ("ZeroshotCLIP", "CasPL")
            applies = table.rules.layout != "shots" or (column.split()[0] == "0") == untrained
            line.append(_figure(table, row, cell) if applies else "")
            if _shows_gain(table, column):
                cascaded = applies and row.trainer.startswith("CasPL")
                line.append(_gain(cell) if cascaded else "")
            if _paper_header(table, column):
                line.append(_paper(cell))
        body.append(line)
    return body


def _classes(row: Row) -> str:
    """Hosts alone have no phase 1; a cascaded trainer without a run has seen nothing yet."""
    return row.classes or (MISSING if row.trainer.startswith("CasPL") else "")


def _figure(table: Table, row: Row, cell: Cell) -> str:
    if cell.mean is None:
        return MISSING
    text = f"{cell.mean:.2f}" + ("" if cell.std is None else f" ± {cell.std:.2f}") + ("†" if cell.collapsed else "")
    remarks = []
    if cell.n != table.seeds and row.trainer not in ("ZeroshotCLIP", "CasPL"):
        remarks.append(f"n = {cell.n}")
    if row.of_datasets and cell.datasets != row.of_datasets:
        remarks.append(f"{cell.datasets} of {row.of_datasets} datasets")
    return text + (f" ({', '.join(remarks)})" if remarks else "")


def _gain(cell: Cell) -> str:
    interval = "" if cell.gain_interval is None else f" ± {cell.gain_interval:.2f}"
    return f"{_signed(cell.gain)}{interval}"


def _signed(points: float | None) -> str:
    return MISSING if points is None else f"{round(points, 2) + 0.0:+.2f}".replace("-", "−")  # no −0.00


def _paper(cell: Cell) -> str:
    return "" if cell.paper is None else f"{cell.paper:.2f} ({_signed(cell.difference)})"
