"""Tables and plots of finished runs: means over seeds, gains of CasPL over its hosts, the paper's figures next to ours."""

import sys
from pathlib import Path

from ..experiments.places import ROOT
from ..experiments.protocols import ACCURACY, PROTOCOLS
from . import arguments
from .program import guarded

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
    parser.add_argument("--format", choices=FORMATS, default="md", help="default: md")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw to FILE (.png, .pdf or .svg)")
    args = arguments.parse(parser, argv, keys=False)
    from ..results import formats, plots, read, summary

    if args.plot:
        plots.check_ending(args.plot)
    runs, problems = read.read_runs(args.output, (args.protocol,) if args.protocol else tuple(PROTOCOLS), args.metrics)
    tables = summary.summarise(runs, read.read_paper(), args.metrics)
    sys.stdout.write(formats.FORMATS[args.format](tables))
    if args.plot:
        plots.draw(tables, args.plot)
    if problems:
        raise ValueError(f"{len(problems)} result.json could not be read, and are in no table: " + " | ".join(problems))


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(lambda: show(argv))
