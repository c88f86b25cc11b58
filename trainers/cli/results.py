"""Tables and plots of finished runs: means over seeds, gains of CasPL over its hosts, the paper's figures next to ours."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..experiments.places import ROOT
from ..experiments.protocols import ACCURACY, PROTOCOLS
from . import arguments
from .program import guarded

if TYPE_CHECKING:
    from ..results.by_key import KeyTable
    from ..results.read import Run

FORMATS = ("md", "csv", "latex", "json")


def show(argv: list[str] | None = None) -> None:
    """Print the tables, and draw them if a file is given.

    Raises:
        ValueError: there are no results, or two files are of the same run; or, after the tables were printed, some results
            could not be read.
    """
    parser = arguments.parser("results", __doc__, keys=False)
    parser.add_argument("output", nargs="?", type=Path, default=ROOT / "output", help="folder of the runs (output/)")
    parser.add_argument("--protocol", choices=list(PROTOCOLS), help="default: all with results")
    parser.add_argument(
        "--metrics", nargs="+", default=[ACCURACY], metavar="METRIC", help=f"metrics to show (default: {ACCURACY})"
    )
    parser.add_argument(
        "--methods", nargs="+", default=[], metavar="METHOD", help="rows to show, in this order; published methods too"
    )
    parser.add_argument("--by", metavar="KEY", help="tables over the values of a key, as --vary makes them")
    parser.add_argument("--format", choices=FORMATS, default="md", help="default: md")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw to FILE (.png, .pdf or .svg)")
    args = arguments.parse(parser, argv, keys=False)
    from ..results import by_key, plots, read

    if args.plot:
        plots.check_ending(args.plot)
    runs, problems = read.read_runs(args.output, (args.protocol,) if args.protocol else tuple(PROTOCOLS), args.metrics)
    if args.by:
        _show_by_key(by_key.tables(runs, args.by), args)
    else:
        _show_tables(runs, args)
    if problems:
        raise ValueError(f"{len(problems)} result.json could not be read, and are in no table: " + " | ".join(problems))


def _show_tables(runs: "list[Run]", args: argparse.Namespace) -> None:
    from ..results import formats, methods, plots, read, summary

    neighbours = read.read_neighbours()
    chosen = methods.check(args.methods, runs, neighbours)
    tables = methods.select(summary.summarise(runs, read.published(), args.metrics), chosen)
    shown = [methods.with_neighbours(table, neighbours, chosen) for table in tables]
    sys.stdout.write(formats.FORMATS[args.format](shown))
    if args.plot:
        plots.save_plot(tables, args.plot)


def _show_by_key(tables: "list[KeyTable]", args: argparse.Namespace) -> None:
    from ..results import by_key, plots_by_key

    sys.stdout.write(by_key.FORMATS[args.format](tables))
    if args.plot:
        plots_by_key.save_plot(tables, args.plot)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(lambda: show(argv))
