"""Phase 1 alone: train the boosting prompt of a dataset, once, for all seeds and hosts."""

from . import arguments
from .program import guarded


def boost(argv: list[str] | None = None) -> None:
    """Train phase 1 unless its file exists, and print the file."""
    parser = arguments.parser("boost", __doc__)
    parser.add_argument("dataset", type=arguments.dataset_name)
    arguments.add_folders(parser)
    args = arguments.parse(parser, argv)
    from ..experiments import runs

    print(runs.boost(runs.Setting(args.dataset, args.data, args.output), args.opts))


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(lambda: boost(argv))
