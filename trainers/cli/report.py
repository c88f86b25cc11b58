"""Write one HTML page about a finished run.

caspl report RUN FILE.html
"""

from pathlib import Path

from . import arguments
from .program import guarded


def report(argv: list[str] | None = None) -> None:
    """Run the command, and print the page's size."""
    parser = arguments.parser("report", __doc__, keys=False)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a finished run")
    parser.add_argument("out", metavar="FILE", type=Path, help="the page to write, .html")
    parser.add_argument(
        "--no-words", action="store_true", help="leave out the nearest words, which need CLIP's weights"
    )
    args = arguments.parse(parser, argv, keys=False)
    from ..config import leaves
    from ..deploy.classifier import load
    from ..deploy.report.collect import collect
    from ..deploy.report.page import render
    from ..deploy.source import local_folder
    from ..experiments.setup import assemble
    from ..storage.atomic import replacing

    run = local_folder(args.run)
    settings = dict(leaves(assemble([], [], evaluated=run)))
    page = render(collect(run, settings, None if args.no_words else load(run)))
    with replacing(args.out) as aside:
        aside.write_text(page, encoding="utf-8")
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(lambda: report(argv))
