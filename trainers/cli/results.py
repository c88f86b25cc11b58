"""Tables and plots of finished runs: means over seeds, gains of CasPL over its hosts, the paper's figures next to ours."""

import sys
from pathlib import Path

from . import arguments
from .program import guarded


def show(argv: list[str] | None = None) -> None:
    """Print the tables, and draw them if a file is given.

    Raises:
        ValueError: there are no results; or, after all others were printed, some could not be read.
    """
    from ..experiments.places import ROOT
    from ..results import formats, plots, read, summary

    parser = arguments.parser("results", __doc__, keys=False)
    parser.add_argument("output", nargs="?", type=Path, default=ROOT / "output", help="folder of the runs (output/)")
    parser.add_argument("--protocol", choices=read.PROTOCOLS, help="default: all that are there")
    parser.add_argument("--format", choices=formats.FORMATS, default="md", help="default: md")
    parser.add_argument("--plot", type=plots.image_file, metavar="FILE", help="also draw to FILE (.png, .pdf or .svg)")
    args = arguments.parse(parser, argv, keys=False)
    runs, problems = read.read_runs(args.output, (args.protocol,) if args.protocol else read.PROTOCOLS)
    tables = summary.summarise(runs, read.read_paper())
    sys.stdout.write(formats.FORMATS[args.format](tables))
    if args.plot:
        plots.draw(tables, args.plot)
    if problems:
        raise ValueError(f"{len(problems)} result.json could not be read, and are in no table:\n" + "\n".join(problems))


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(lambda: show(argv))
