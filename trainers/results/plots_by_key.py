"""Drawing tables over a key: a panel a figure, a curve a trainer."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt

from .by_key import BASELINE, KeyTable, Line, order_of
from .paired import LEVEL, half_width
from .plots import COLOURS, check_ending, save
from .summary import AVERAGE, plain

plt.switch_backend("Agg")


def save_plot(tables: Sequence[KeyTable], path: Path) -> None:
    """Draw the tables, one below the other; of several datasets, their average.

    Args:
        tables: the tables.
        path: the image file.

    Raises:
        ValueError: the ending is not an image's.
    """
    check_ending(path)
    columns = max(len(table.columns) for table in tables)
    figure = plt.figure(figsize=(4.4 * max(columns, 2), 4.2 * len(tables)), layout="constrained")
    parts = figure.subfigures(len(tables), 1, squeeze=False)[:, 0]
    for table, part in zip(tables, parts, strict=True):
        _draw_one(table, part)
    save(figure, path)


def _draw_one(table: KeyTable, part) -> None:
    average = [line for line in table.lines if line.dataset == AVERAGE]
    # An average over datasets that share no value has baselines only.
    shown = average if any(line.value != BASELINE for line in average) else table.lines
    names = ", ".join(dict.fromkeys(line.dataset for line in shown))
    part.suptitle(f"{table.title} ({names})", fontsize=10, fontweight="bold")
    values = sorted({line.value for line in shown if line.value != BASELINE}, key=order_of)
    panels = part.subplots(1, len(table.columns), squeeze=False)[0]
    curves = list(dict.fromkeys((line.dataset, line.trainer, line.others) for line in shown))
    hosts = list(dict.fromkeys(plain(trainer) for _, trainer, _ in curves))
    for column, panel in zip(table.columns, panels, strict=True):
        for curve in curves:
            of_curve = [line for line in shown if (line.dataset, line.trainer, line.others) == curve]
            _curve(panel, of_curve, column, values, COLOURS[hosts.index(plain(curve[1])) % len(COLOURS)])
        panel.set_title(column, fontsize=10)
        panel.set_xticks(
            range(len(values)), values, rotation=30 if max(map(len, values), default=0) > 6 else 0, fontsize=8
        )
        panel.set_xlabel(table.key, fontsize=8)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel(f"accuracy (%); bars: {LEVEL} % confidence interval", fontsize=8)
    handles, labels = panels[0].get_legend_handles_labels()
    part.legend(handles, labels, loc="outside lower center", frameon=False, ncols=4, fontsize=8)


def _curve(panel, lines: list[Line], column: str, values: list[str], colour) -> None:
    """Draw a trainer's curve; what does not read the key is a horizontal line."""
    label = lines[0].trainer + (f" ({lines[0].others})" if lines[0].others else "")
    places, means, bars = [], [], []
    for line in lines:
        figures = list(line.figures.get(column, {}).values())
        if not figures:
            continue
        if line.value == BASELINE:
            panel.axhline(statistics.mean(figures), color=colour, linestyle=":", label=f"{label} {BASELINE}")
            continue
        places.append(values.index(line.value))
        means.append(statistics.mean(figures))
        bars.append(half_width(figures) or 0.0)
    if places:
        style = "-" if lines[0].trainer.startswith("CasPL") else "--"
        marks = {"marker": "o", "markersize": 4, "capsize": 2}
        panel.errorbar(places, means, bars, color=colour, linestyle=style, label=label, **marks)
