"""`--dry-run`: what a command would run, where it writes, what exists already, and the cost."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .cost import add_rate, table
from .program import hide_information

if TYPE_CHECKING:
    from ..experiments.dry_run import Planned
    from ..experiments.grid import Job


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """Add `--dry-run` and the options of its hours."""
    parser.add_argument(
        "--dry-run", action="store_true", help="only print what would run, its folders, what exists, and the cost"
    )
    add_rate(parser)


def check_dry_run(args: argparse.Namespace) -> None:
    """Check that a dry run can count operations, and that its options are not given without one.

    Raises:
        ConfigError: PyTorch is too old, or the options are given without a dry run.
    """
    from ..config import ConfigError

    if args.dry_run:
        from ..pytorch import COST, check_pytorch

        check_pytorch("--dry-run", COST)
    elif args.rate or args.measure:
        raise ConfigError("--rate, --measure: only read with --dry-run; expected both or neither")


def show_jobs(jobs: Sequence["Job"], args: argparse.Namespace) -> None:
    """Print the plan of jobs.

    Args:
        jobs: the jobs.
        args: the command's arguments.
    """
    from ..experiments.dry_run import planned, surroundings

    hide_information()
    print("\n".join(surroundings(jobs)))
    known: set[tuple] = set()
    show_plans([planned(job, args.measure, known) for job in jobs], args)


def show_plans(plans: Sequence["Planned"], args: argparse.Namespace) -> None:
    """Print what would run and the cost of what is not finished."""
    from ..experiments.dry_run import FINISHED, by_kind

    for plan in plans:
        print(f"{plan.state:<10} {plan.what} -> {plan.folder}")
    finished = sum(plan.state == FINISHED for plan in plans)
    blocked = sum(plan.state.startswith("blocked") for plan in plans)
    print(f"\n{len(plans)} jobs: {finished} finished, {blocked} blocked, {len(plans) - finished - blocked} to run")
    if parts := by_kind(plans):
        print(f"\nCost of what would run:\n{table(parts, args.rate, args.measure)}")
