"""Tables and plots of what the protocols left: means over seeds, gains of CasPL over its hosts, the paper beside ours."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts" / "caspl"))

from runs import as_program  # noqa: E402
from tables import formats, plots, read, summary  # noqa: E402


def main(argv: list[str] | None = None) -> None:
    """Command line: results.py [OUTPUT] [--protocol P] [--format F] [--plot FILE]

    Raises:
        ValueError: there are no results; or, after all others were printed, some could not be read.
    """
    parser = argparse.ArgumentParser(prog="results.py", description=__doc__)
    parser.add_argument("output", nargs="?", type=Path, default=ROOT / "output", help="folder of the runs (output/)")
    parser.add_argument("--protocol", choices=read.PROTOCOLS, help="default: all that are there")
    parser.add_argument("--format", choices=formats.FORMATS, default="md", help="default: md")
    parser.add_argument("--plot", type=plots.image_file, metavar="FILE", help="also draw to FILE (.png, .pdf or .svg)")
    args = parser.parse_args(argv)
    runs, problems = read.read_runs(args.output, (args.protocol,) if args.protocol else read.PROTOCOLS)
    tables = summary.summarise(runs, read.read_paper())
    sys.stdout.write(formats.FORMATS[args.format](tables))
    if args.plot:
        plots.draw(tables, args.plot)
    if problems:
        raise ValueError(f"{len(problems)} result.json could not be read, and are in no table:\n" + "\n".join(problems))


if __name__ == "__main__":
    as_program(main)
