"""The paper's protocols: one run with all it needs (base2new, few-shot, cross-dataset), or a whole grid (reproduce)."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from . import arguments
from .program import guarded

if TYPE_CHECKING:
    from ..experiments.grid import Plan

SHOTS, SEEDS, SHOTS_LIST = 16, [1, 2, 3], [1, 2, 4, 8, 16]  # the paper's


def main(name: str, argv: list[str] | None = None) -> int:
    """Run the command of a protocol, or `reproduce`; return its exit code."""
    return guarded(lambda: reproduce(argv) if name == "reproduce" else one_run(name, argv))


def _run_parser(name: str) -> argparse.ArgumentParser:
    from ..experiments.protocols import PROTOCOLS

    parser = arguments.parser(name.replace("_", "-"), f"{PROTOCOLS[name].title}: both phases, and a table.")
    parser.add_argument("dataset", type=arguments.dataset_name, help="shapes, oxford_pets, ... (see configs/datasets)")
    if name == "few_shot":
        parser.add_argument("shots", type=arguments.shot_number, help="images a class in phase 2")
    parser.add_argument("seed", type=arguments.run_seed, help="seed of the few-shot draw and of phase 2")
    parser.add_argument(
        "--host", type=arguments.host_name, default="PromptSRC", help="promptsrc (default), coop, cocoop or maple"
    )
    if name != "few_shot":
        parser.add_argument("--shots", type=int, default=SHOTS, help=f"images a class in phase 2 (default {SHOTS})")
    if name == "cross_dataset":
        parser.add_argument(
            "--targets", nargs="+", type=arguments.dataset_name, default=[], help="default: all the others"
        )
    parser.add_argument("--baseline", action="store_true", help="also the host alone and zero-shot CLIP")
    arguments.add_folders(parser)
    return parser


def one_run(name: str, argv: list[str] | None) -> None:
    """Train phase 1 unless its file exists, train phase 2, and print a table."""
    args = arguments.parse(_run_parser(name), argv)
    from ..experiments.grid import tables
    from ..experiments.runs import Setting, boost, host_run, untrained

    setting = Setting(args.dataset, args.data, args.output, args.opts, name, getattr(args, "targets", []))
    setting.check_options(["CasPL", f"CasPL_{args.host}"])
    boost(setting)
    results = [host_run(setting, f"CasPL_{args.host}", args.seed, args.shots)]
    if args.baseline or args.dataset == "shapes":
        alone = host_run(setting, args.host, args.seed, args.shots)
        results = [untrained(setting, "ZeroshotCLIP"), alone, *results]
    print(tables(results, "simple"))


def reproduce(argv: list[str] | None) -> None:
    """Make every run of the tables that was asked for, and print the tables."""
    args = arguments.parse(_grid_parser(), argv)
    from ..experiments.grid import Grid
    from ..experiments.protocols import PROTOCOLS

    names = list(PROTOCOLS) if args.protocol == "all" else [args.protocol]
    plans = [_plan(name, args) for name in names]
    grid = Grid(plans, args.data, args.output, args.opts)
    kind = args.cluster or ("local" if args.miniature else "none")  # the models of the miniature keep one core busy
    if kind != "none":
        from ..experiments.cluster import Cluster

        grid.run(Cluster(kind, args.jobs, args.output / "cluster", args.slurm).run)
    else:
        grid.run()
    grid.report(lambda protocols: _paper_tables(args.output, protocols))


def _paper_tables(output: Path, protocols: list[str]) -> None:
    """Print what `results.py` makes of all that is in the output's folder, of these protocols."""
    from . import results

    for name in protocols:
        try:
            results.show([str(output), "--protocol", name])
        except ValueError as error:  # about results of other runs in this folder; the grid's own failures come below
            print(f"in the tables: {error}")


def _grid_parser() -> argparse.ArgumentParser:
    from ..experiments.protocols import PROTOCOLS

    text = "Every run of the paper's tables, with and without CasPL. Finished runs are read, failed ones listed."
    parser = arguments.parser("reproduce", text)
    parser.add_argument("protocol", choices=[*PROTOCOLS, "all"])
    parser.add_argument(
        "--datasets",
        nargs="+",
        type=arguments.dataset_name,
        help="default: the paper's eleven; cross_dataset alone: its sources",
    )
    parser.add_argument("--sources", nargs="+", type=arguments.dataset_name, help="of cross_dataset; default: imagenet")
    parser.add_argument("--targets", nargs="+", type=arguments.dataset_name, default=[], help="of cross_dataset")
    parser.add_argument("--hosts", nargs="+", type=arguments.host_name, help="default: all four; few_shot: promptsrc")
    parser.add_argument("--seeds", nargs="+", type=arguments.run_seed, help="default: 1 2 3")
    parser.add_argument("--shots", type=int, default=SHOTS, help=f"but for few_shot (default {SHOTS})")
    parser.add_argument("--shots-list", nargs="+", type=arguments.shot_number, help="of few_shot; default: 1 2 4 8 16")
    parser.add_argument("--miniature", action="store_true", help="the same on the embedded datasets: minutes on a CPU")
    parser.add_argument(
        "--cluster",
        choices=["none", "local", "slurm"],
        help="start the runs as jobs, on this machine or on SLURM; none, the default: one by one in this process; "
        "--miniature: local",
    )
    parser.add_argument("--jobs", type=int, default=2, help="how many jobs at a time (default 2)")
    parser.add_argument(
        "--slurm", nargs="+", default=[], metavar="NAME=VALUE", help="submitit's parameters: slurm_partition=gpu ..."
    )
    arguments.add_folders(parser)
    return parser


def _plan(name: str, args: argparse.Namespace) -> "Plan":
    """Return a protocol's part of the grid: what was asked for, else the paper's, or the miniature's."""
    from ..experiments.grid import Plan
    from ..experiments.protocols import ELEVEN, MINIATURE
    from ..experiments.recipes import PAPER_HOSTS

    datasets, seeds, shots = args.datasets or (MINIATURE if args.miniature else ELEVEN), args.seeds, [args.shots]
    hosts = args.hosts or list(PAPER_HOSTS)
    if name == "few_shot":
        hosts = args.hosts or (["CoOp", "PromptSRC"] if args.miniature else ["PromptSRC"])
        shots = args.shots_list or ([1, 4, 16] if args.miniature else SHOTS_LIST)
    if name == "cross_dataset":
        asked = args.datasets if args.protocol == name else None
        datasets = args.sources or asked or (MINIATURE[:1] if args.miniature else ["imagenet"])
    few = [1, 2] if name == "base2new" else [1]
    return Plan(name, datasets, hosts, seeds or (few if args.miniature else SEEDS), shots, args.targets)
