"""Write one HTML page about a finished run, or about all runs in an output folder.

    caspl report RUN|OUTPUT FILE.html

The page needs no network and no other file.
"""

from pathlib import Path

from . import arguments
from .program import guarded, hide_information


def report(argv: list[str] | None = None) -> None:
    """Run the command, and print the page's size."""
    parser = arguments.parser("report", __doc__, keys=False)
    parser.add_argument("run", metavar="RUN|OUTPUT", type=Path, help="folder of a finished run, or of several")
    parser.add_argument("out", metavar="FILE", type=Path, help="the page to write, .html")
    parser.add_argument(
        "--no-words", action="store_true", help="leave out the nearest words, which need CLIP's weights"
    )
    args = arguments.parse(parser, argv, keys=False)
    hide_information()
    from ..config import leaves
    from ..deploy.classifier import load
    from ..deploy.report.collect import collect, find_runs, overview
    from ..deploy.report.page import render
    from ..experiments.setup import assemble
    from ..storage.atomic import replacing

    if args.out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"FILE is {args.out}; expected a page, with the ending .html")
    where = args.run.expanduser().resolve()
    if not where.is_dir():
        raise FileNotFoundError(f"{args.run}: does not exist; expected the folder of a finished run, or of several")
    stories = []
    for run in find_runs(where):
        settings = dict(leaves(assemble([], [], evaluated=run)))
        stories.append(collect(run, settings, None if args.no_words else load(run)))
    page = render(stories, f"Runs in {where.name}", overview(where))
    with replacing(args.out) as aside:
        aside.write_text(page, encoding="utf-8")
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB, {len(stories)} run{'s' if len(stories) != 1 else ''}")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(lambda: report(argv))
