"""The command line of the protocols: `driver.py base2new|few_shot|cross_dataset ...` makes one run with all it needs,
`driver.py reproduce <protocol>|all` a whole grid."""

import argparse
import functools
import sys
from pathlib import Path

from grid import Grid, Plan, tables
from protocols import ELEVEN, MINIATURE, PROTOCOLS
from runs import (
    HOSTS,
    ROOT,
    Setting,
    add_arguments,
    as_program,
    boost,
    dataset_name,
    host_name,
    host_run,
    run_seed,
    shot_number,
    untrained,
)

SHOTS, SEEDS, SHOTS_LIST = 16, [1, 2, 3], [1, 2, 4, 8, 16]  # the paper's


def main(argv: list[str] | None = None) -> None:
    """Command line: see above."""
    programs = {name: one_run for name in PROTOCOLS} | {"reproduce": reproduce}
    name, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    if name not in programs:
        raise ValueError(f"there is no protocol {name!r}: known are {', '.join(programs)}")
    programs[name](name, rest)


def one_run(name: str, argv: list[str]) -> None:
    """<dataset> [<shots>] <seed> [--host H] ... [KEY VALUE ...]: phase 1 (unless it is there), phase 2, a table."""
    protocol = PROTOCOLS[name]
    parser = argparse.ArgumentParser(prog=f"{name}.sh", description=f"{protocol.title}: both phases, and a table.")
    parser.add_argument("dataset", type=dataset_name, help="shapes, oxford_pets, ... (see configs/datasets)")
    if name == "few_shot":
        parser.add_argument("shots", type=shot_number, help="images a class in phase 2")
    parser.add_argument("seed", type=run_seed, help="seed of the few-shot draw and of phase 2")
    parser.add_argument(
        "--host", type=host_name, default="PromptSRC", help="promptsrc (default), coop, cocoop or maple"
    )
    if name != "few_shot":
        parser.add_argument("--shots", type=int, default=SHOTS, help=f"images a class in phase 2 (default {SHOTS})")
    if name == "cross_dataset":
        parser.add_argument("--targets", nargs="+", type=dataset_name, default=[], help="default: all the others")
    parser.add_argument("--baseline", action="store_true", help="also the host alone and zero-shot CLIP")
    add_arguments(parser)
    args = parser.parse_intermixed_args(argv)
    setting = Setting(args.dataset, args.data, args.output, args.opts, name, getattr(args, "targets", []))
    setting.check_options(["CasPL", f"CasPL_{args.host}"])
    boost(setting)
    results = [host_run(setting, f"CasPL_{args.host}", args.seed, args.shots)]
    if args.baseline or args.dataset == "shapes":
        alone = host_run(setting, args.host, args.seed, args.shots)
        results = [untrained(setting, "ZeroshotCLIP"), alone, *results]
    print(tables(results, "simple"))


def reproduce(_: str, argv: list[str]) -> None:
    """base2new|few_shot|cross_dataset|all [--hosts ...] [--datasets ...] [--seeds ...] ...: every run of the tables."""
    args = _grid_parser().parse_intermixed_args(argv)
    names = list(PROTOCOLS) if args.protocol == "all" else [args.protocol]
    plans = [_plan(name, args) for name in names]
    grid = Grid(plans, args.data, args.output, args.opts)
    kind = args.cluster or ("local" if args.miniature else "none")  # the models of the miniature keep one core busy
    if kind != "none":
        from cluster import Cluster

        grid.run(Cluster(kind, args.jobs, args.output / "cluster", args.slurm).run)
    else:
        grid.run()
    grid.report(functools.partial(_paper_tables, args.output))


def _paper_tables(output: Path, protocols: list[str]) -> None:
    """Print what `results.py` makes of all that is in the output's folder, of these protocols."""
    sys.path.insert(0, str(ROOT / "scripts"))
    import results

    for name in protocols:
        try:
            results.main([str(output), "--protocol", name])
        except ValueError as error:  # about results of other runs in this folder; the grid's own failures come below
            print(f"in the tables: {error}")


def _grid_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="reproduce.sh",
        description="Every run of the paper's tables, with and without CasPL. Finished runs are read, failed ones listed.",
    )
    parser.add_argument("protocol", choices=[*PROTOCOLS, "all"])
    parser.add_argument(
        "--datasets", nargs="+", type=dataset_name, help="default: the paper's eleven; cross_dataset alone: its sources"
    )
    parser.add_argument("--sources", nargs="+", type=dataset_name, help="of cross_dataset; default: imagenet")
    parser.add_argument("--targets", nargs="+", type=dataset_name, default=[], help="of cross_dataset")
    parser.add_argument("--hosts", nargs="+", type=host_name, help="default: all four; few_shot: promptsrc")
    parser.add_argument("--seeds", nargs="+", type=run_seed, help="default: 1 2 3")
    parser.add_argument("--shots", type=int, default=SHOTS, help=f"but for few_shot (default {SHOTS})")
    parser.add_argument("--shots-list", nargs="+", type=shot_number, help="of few_shot; default: 1 2 4 8 16")
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
    add_arguments(parser)
    return parser


def _plan(name: str, args: argparse.Namespace) -> Plan:
    """A protocol's part of the grid: what was asked for, else the paper's, else the miniature's."""
    datasets, seeds, shots = args.datasets or (MINIATURE if args.miniature else ELEVEN), args.seeds, [args.shots]
    hosts = args.hosts or list(HOSTS.values())
    if name == "few_shot":
        hosts = args.hosts or (["CoOp", "PromptSRC"] if args.miniature else ["PromptSRC"])
        shots = args.shots_list or ([1, 4, 16] if args.miniature else SHOTS_LIST)
    if name == "cross_dataset":
        asked = args.datasets if args.protocol == name else None
        datasets = args.sources or asked or (MINIATURE[:1] if args.miniature else ["imagenet"])
    few = [1, 2] if name == "base2new" else [1]
    return Plan(name, datasets, hosts, seeds or (few if args.miniature else SEEDS), shots, args.targets)


if __name__ == "__main__":
    as_program(main)
