"""Phase 1 alone: train the boosting prompt of a dataset once for all seeds and hosts."""

from . import arguments
from .dry_run import add_dry_run, check_dry_run, show_jobs
from .program import guarded


def boost(argv: list[str] | None = None) -> None:
    """Train phase 1 unless its file exists, and print the name of the file."""
    parser = arguments.parser("boost", __doc__)
    parser.add_argument("dataset", type=arguments.dataset_name)
    arguments.add_folders(parser)
    add_dry_run(parser)
    args = arguments.parse(parser, argv)
    check_dry_run(args)
    from ..experiments import runs
    from ..experiments.grid import BOOST, Job
    from ..experiments.setting import Setting

    setting = Setting(args.dataset, args.data, args.output, boost_options=args.opts)
    setting.check_options(["CasPL"])
    if args.dry_run:
        show_jobs([Job(setting, BOOST)], args)
        return
    print(runs.boost(setting))


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(lambda: boost(argv))
