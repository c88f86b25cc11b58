"""Drawing tables: few-shot curves, and how base and new accuracy move from a host to its cascaded one."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ..experiments.protocols import PROTOCOLS
from ..storage.atomic import replacing
from .formats import title
from .summary import AVERAGE, Row, Table, plain

plt.switch_backend("Agg")

_HEIGHTS = {"curves": 2.6, "movement": 4.2}  # inches per line of panels
ENDINGS = (".png", ".pdf", ".svg")
COLOURS = [plt.get_cmap("tab10")(number) for number in range(10)]
PANELS_A_LINE = {"curves": 4, "movement": 2}


def check_ending(path: Path) -> None:
    """Raise `ValueError` unless the ending of an image file is one of `ENDINGS`."""
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"--plot: {path}; expected a file that ends in {', '.join(ENDINGS)}")


def save_plot(tables: list[Table], path: Path) -> None:
    """Draw each table whose protocol has a plot, one below the other.

    Args:
        tables: the tables.
        path: the image file.

    Raises:
        ValueError: no table has a plot.
    """
    tables = [table for table in tables if table.rules.plot in DRAWN]
    if not tables:
        drawn = [name for name, rules in PROTOCOLS.items() if rules.plot]
        raise ValueError(f"--plot: {path}: there are no results to draw; expected results of {' or '.join(drawn)}")
    heights = [_lines(table) * _HEIGHTS[table.rules.plot] + 1.5 for table in tables]
    figure = plt.figure(figsize=(13, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(tables), 1, height_ratios=heights, squeeze=False)[:, 0]
    for table, part in zip(tables, parts, strict=True):
        part.suptitle(title(table), fontweight="bold")
        DRAWN[table.rules.plot](table, part)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure to a file, in the format of its ending, and close it."""
    with replacing(path) as aside:
        figure.savefig(aside, dpi=130, format=path.suffix[1:].lower())
    plt.close(figure)


def _lines(table: Table) -> int:
    """Return the number of lines of panels."""
    panels = _hosts(table) if table.rules.plot == "movement" else _datasets(table)
    return -(-len(panels) // PANELS_A_LINE[table.rules.plot])


def _datasets(table: Table) -> list[str]:
    """Return the datasets of panels or points; the average is one of them if it is over more than one dataset."""
    datasets = list(dict.fromkeys(row.dataset for row in table.rows))
    return datasets[:1] if len(datasets) == 2 else datasets


def _hosts(table: Table) -> list[str]:
    return list(dict.fromkeys(plain(row.trainer) for row in table.rows if row.trainer not in ("ZeroshotCLIP", "CasPL")))


def _panels(part, count: int, across: int, **kwargs) -> list:
    """Return `count` panels in lines of at most `across`."""
    across = min(count, across)
    panels = part.subplots(-(-count // across), across, squeeze=False, **kwargs).flat
    for panel in panels[count:]:
        panel.remove()
    return list(panels[:count])


def _legend(part, panels: list, **kwargs) -> None:
    """Draw one legend for all panels below them."""
    found: dict[str, Any] = {}
    for panel in panels:
        handles, labels = panel.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    part.legend(found.values(), found.keys(), loc="outside lower center", frameon=False, **kwargs)


def _curves(table: Table, part) -> None:
    """Draw accuracy over shots, one panel per dataset: cascaded hosts solid, hosts alone dotted, the paper's dashed."""
    hosts, datasets = _hosts(table), _datasets(table)
    panels = _panels(part, len(datasets), PANELS_A_LINE[table.rules.plot])
    shots = [int(column) for column in table.columns if column.isdigit()]
    for dataset, panel in zip(datasets, panels, strict=True):
        for row in (row for row in table.rows if row.dataset == dataset):
            if plain(row.trainer) in hosts:
                _curve(panel, row, COLOURS[hosts.index(plain(row.trainer)) % len(COLOURS)])
            elif "0" in row.cells and row.cells["0"].mean is not None:
                marker = "*" if row.trainer == "ZeroshotCLIP" else "D"
                panel.plot(
                    [0],
                    [row.cells["0"].mean],
                    marker,
                    color="0.3",
                    markersize=8 if marker == "*" else 5,
                    label=row.trainer,
                )
        panel.set_title(dataset, fontsize=10, fontweight="bold" if dataset == AVERAGE else None)
        panel.set_xscale("function", functions=(_to_axis, _from_axis))
        panel.set_xticks(shots, [str(number) for number in shots])
        panel.set_xlim(min(shots) * 0.8 if min(shots) else -0.4, max(shots) * 1.2)
        panel.grid(alpha=0.3)
        panel.set_xlabel("shots a class", fontsize=9)
    for panel in panels[:: PANELS_A_LINE[table.rules.plot]]:
        panel.set_ylabel("accuracy (%)")
    _legend(part, panels, ncols=4)


def _to_axis(shots):
    """Return a logarithm from 1 shot on, with 0 shots one step before it."""
    return np.where(np.asarray(shots) >= 1, np.log2(np.maximum(shots, 1)) + 1, shots)


def _from_axis(place):
    return np.where(np.asarray(place) >= 1, np.exp2(np.maximum(place, 1) - 1), place)


def _curve(panel, row: Row, colour) -> None:
    cells = {int(column): cell for column, cell in row.cells.items() if column.isdigit()}
    ours = [number for number, cell in cells.items() if cell.mean is not None and number]
    cascaded = row.trainer != plain(row.trainer)
    style = {"color": colour, "marker": "o" if cascaded else "s", "markersize": 4}
    style |= {"linestyle": "-" if cascaded else ":", "linewidth": 1.8 if cascaded else 1.4}
    if ours:
        means, stds = [cells[n].mean for n in ours], [cells[n].std or 0 for n in ours]
        panel.errorbar(ours, means, stds, label=row.trainer, capsize=2, elinewidth=0.8, **style)
    paper = [number for number, cell in cells.items() if cell.paper is not None]
    if paper:
        style = {
            "linestyle": "--",
            "linewidth": 1.6 if cascaded else 0.9,
            "marker": "o" if cascaded else "s",
            "markersize": 3,
        }
        label = f"{row.trainer}, the paper's average"
        panel.plot(paper, [cells[n].paper for n in paper], color=colour, mfc="white", label=label, **style)


def _movements(table: Table, part) -> None:
    """Plot new over base accuracy in one panel per host, with one colour per dataset.

    A line leads from the host alone (ring) to the cascaded host (dot).
    """
    hosts, datasets = _hosts(table), _datasets(table)
    panels = _panels(part, len(hosts), PANELS_A_LINE[table.rules.plot], sharex=True, sharey=True)
    rows = {(row.dataset, row.trainer): row for row in table.rows}
    pairs = [plt.get_cmap("tab20")(number) for number in range(20)]  # each a strong colour and a pale one
    colours = pairs[::2] + pairs[1::2]
    for host, panel in zip(hosts, panels, strict=True):
        for number, dataset in enumerate(datasets):
            colour = "black" if dataset == AVERAGE else colours[number % len(colours)]
            _movement(panel, rows[dataset, host], rows[dataset, f"CasPL_{host}"], colour, dataset)
        panel.set_title(f"{host} to CasPL_{host}", fontsize=10)
        panel.set_xlabel("base accuracy (%)")
        panel.set_ylabel("new accuracy (%)")
        panel.tick_params(labelbottom=True, labelleft=True)
        panel.grid(alpha=0.3)
    panels[0].plot([], [], "o", mfc="none", mec="0.3", label="ring: host alone")
    panels[0].plot([], [], "o", color="0.3", label="dot: with CasPL")
    _legend(part, panels, ncols=7)


def _movement(panel, alone: Row, cascaded: Row, colour, label: str) -> None:
    points, above = [], 2 if label == AVERAGE else 3  # the average is bigger, and covers none
    for row, style in ((alone, {"mfc": "none"}), (cascaded, {"label": label})):
        base, new = row.cells["base"].mean, row.cells["new"].mean
        if base is not None and new is not None:
            points.append((base, new))
            panel.plot(base, new, "o", color=colour, markersize=9 if label == AVERAGE else 6, zorder=above, **style)
    if len(points) == 2:
        arrow = {"arrowstyle": "->", "color": colour, "shrinkA": 3, "shrinkB": 3, "linewidth": 1.2}
        panel.annotate("", points[1], points[0], arrowprops=arrow, zorder=above)


DRAWN = {"curves": _curves, "movement": _movements}
