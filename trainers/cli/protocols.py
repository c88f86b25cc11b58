"""The commands of the protocols (base2new, few-shot, cross-dataset, ...), and of a whole grid of runs (reproduce)."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..experiments.protocols import DEMONSTRATION, PROTOCOLS, Protocol
from . import arguments
from .dry_run import add_dry_run, check_dry_run, show_jobs
from .program import guarded
from .stages import Stages

if TYPE_CHECKING:
    from ..experiments.grid import Grid, Job, Plan
    from ..experiments.result import Result
    from ..experiments.setting import Setting

SHOTS = 16  # images per class
ABLATIONS, TEACHERS = "ablations", "teachers"  # of `reproduce`


def main(name: str, argv: list[str] | None = None) -> int:
    """Run the command of a protocol, or `reproduce`; return its exit code."""
    return guarded(lambda: reproduce(argv) if name == "reproduce" else one_run(PROTOCOLS[name], argv))


# The arguments that a protocol's entry may name. Types are resolved when they are used: `--help` must not wait for them.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "dataset": {"type": arguments.dataset_name, "help": "shapes, oxford_pets, ... (see configs/datasets)"},
    "shots": {"type": arguments.shot_number, "help": "images per class in phase 2"},
    "seed": {"type": arguments.run_seed, "help": "seed of the few-shot draw and of phase 2"},
    "--host": {
        "type": arguments.host_name,
        "default": "PromptSRC",
        "metavar": "HOST",
        "help": "promptsrc (default), coop, cocoop, maple, or another host of configs/trainers",
    },
    "--shots": {
        "type": arguments.shot_number,
        "default": SHOTS,
        "help": f"images per class in phase 2 (default {SHOTS})",
    },
    "--targets": {
        "nargs": "+",
        "type": arguments.dataset_name,
        "default": [],
        "metavar": "DATASET",
        "help": "datasets to test on (default: all others)",
    },
    "--baseline": {
        "action": "store_true",
        "help": "also run the host alone, zero-shot CLIP, and the boosted CLIP without a host",
    },
}


def _run_parser(rules: Protocol) -> argparse.ArgumentParser:
    parser = arguments.parser(rules.command, f"{rules.title}: both phases, and a table.", phases=True)
    for name in rules.arguments:
        parser.add_argument(name, **ARGUMENTS[name])
    if "--targets" not in rules.arguments:
        _add_vary(parser)
    arguments.add_folders(parser)
    add_dry_run(parser)
    return parser


def _add_vary(parser: argparse.ArgumentParser) -> None:
    text = "make the runs for each value; several keys: for each combination. boost:KEY, adapt:KEY: in one phase alone"
    parser.add_argument("--vary", nargs="+", default=[], metavar="KEY=V1,V2,...", help=text)


def one_run(rules: Protocol, argv: list[str] | None) -> None:
    """Train phase 1 unless its file exists, train phase 2, and print a table."""
    args = arguments.parse(_run_parser(rules), argv, phases=True)
    check_dry_run(args)
    from ..experiments.checks import check_data, check_jobs
    from ..experiments.grid import UNTRAINED, unique
    from ..experiments.runs import boost, host_run, untrained

    setting, cascaded = _setting(args, args.dataset, rules.name, getattr(args, "targets", [])), f"CasPL_{args.host}"
    baseline = args.baseline or args.dataset in ("shapes", DEMONSTRATION)
    trainers = ["CasPL", cascaded, *([args.host, "ZeroshotCLIP"] if baseline else [])]
    varied = _variations(setting, args)
    for each in varied:
        each.check_options(trainers)
    jobs = unique(job for each in varied for job in _jobs(each, args, baseline))
    _announce_unreached(setting)
    if args.dry_run:
        show_jobs(jobs, args)
        return
    check_jobs(jobs)
    if len(varied) > 1:
        _several(jobs, args)
        return
    setting = varied[0]
    stages, results = Stages(5 if baseline else 4), []
    with stages.next(f"{'render' if args.dataset.startswith('shapes') else 'read'} data: {args.dataset}"):
        check_data(jobs)
    with stages.next("train phase 1: the boosting prompt"):
        boost(setting)
    with stages.next(f"train phase 2: {cascaded}, seed {args.seed}"):
        results.append(host_run(setting, cascaded, args.seed, args.shots))
    if baseline:
        with stages.next(f"train and evaluate the baselines: {args.host} alone, zero-shot and boosted CLIP"):
            results += [host_run(setting, args.host, args.seed, args.shots)]
            results += [untrained(setting, trainer) for trainer in UNTRAINED]
    with stages.next(f"table: {rules.title}, {args.dataset}"):
        table = _table(results)
    print(table)


def _variations(setting: "Setting", args: argparse.Namespace) -> "list[Setting]":
    """Return the setting for each combination of `--vary`; the setting itself without it."""
    from ..experiments.variations import product

    return [setting.with_variation(varied) for varied in product(getattr(args, "vary", []))]


def _several(jobs: "list[Job]", args: argparse.Namespace) -> None:
    """Make the runs of all variations one after the other and print a table over the varied keys.

    Raises:
        ConfigError: runs failed.
    """
    from ..experiments.checks import check_data
    from ..experiments.grid import Grid

    check_data(jobs)
    grid = Grid([])  # the options are checked already
    grid.jobs = jobs
    grid.run()
    report(grid, args.output, args.vary)


def _jobs(setting: "Setting", args: argparse.Namespace, baseline: bool) -> "list[Job]":
    """Return the jobs of a single run of a protocol."""
    from ..experiments.grid import BOOST, UNTRAINED, Job

    jobs = [Job(setting, BOOST), Job(setting, f"CasPL_{args.host}", args.seed, args.shots)]
    if not baseline:
        return jobs
    return [*jobs, Job(setting, args.host, args.seed, args.shots), *(Job(setting, trainer) for trainer in UNTRAINED)]


def _setting(args: argparse.Namespace, dataset: str = "", protocol: str = "base2new", targets: Any = ()) -> "Setting":
    from ..experiments.setting import Setting

    return Setting(dataset, args.data, args.output, args.opts, protocol, list(targets), args.boost, args.adapt)


def _announce_unreached(setting: "Setting") -> None:
    """Print one line about plain KEY VALUE pairs that do not reach phase 1."""
    if pairs := " ".join(setting.unreached()):
        print(f"Not set in phase 1: {pairs} (to set it there: --boost {pairs})", flush=True)


def _table(results: "list[Result]") -> str:
    from ..results import formats, read, summary

    names = read.registry_names()
    runs = [run for result in results for run in read.runs_of(result, Path(), names)]
    selected = sorted({run.trainer for run in runs if run.selected_on_test})
    marks = [f"{trainer}: {read.SELECTED_ON_TEST}" for trainer in selected]
    return "\n".join([formats.plain(summary.summarise(runs, {})), *marks])


def reproduce(argv: list[str] | None) -> None:
    """Make every run of the tables that was asked for, and print the tables.

    Raises:
        ConfigError: runs failed.
    """
    args = arguments.parse(_grid_parser(), argv, phases=True)
    check_dry_run(args)
    from ..experiments.checks import all_finished, check_data, check_jobs
    from ..experiments.grid import Grid

    shared = _setting(args)
    if args.protocol == ABLATIONS:
        plans, varied = _ablations(shared, args)
    elif args.protocol == TEACHERS:
        plans, varied = _teachers(shared, args)
    else:
        names = list(PROTOCOLS) if args.protocol == "all" else [args.protocol]
        plans, varied = [_plan(PROTOCOLS[name], args) for name in names], _variations(shared, args)
    grid = Grid(plans, *varied)
    if args.protocol != TEACHERS:
        _announce_unreached(shared)
    if args.dry_run:
        show_jobs(grid.jobs, args)
        return
    check_jobs(grid.jobs)
    check_data(grid.jobs)
    kind = args.cluster or ("local" if args.miniature else "none")  # the models of the miniature keep one core busy
    if kind == "none" or all_finished(grid.jobs):
        grid.run()
    else:
        from ..experiments.cluster import Cluster

        grid.run(Cluster(kind, args.jobs, args.output / "cluster", args.slurm).run)
    if args.protocol == ABLATIONS:
        _report_ablations(grid, args.output)
    elif args.protocol == TEACHERS:
        _report_teachers(grid)
    else:
        report(grid, args.output, args.vary)


def _ablations(shared: "Setting", args: argparse.Namespace) -> "tuple[list[Plan], list[Setting]]":
    """Return the plan of all ablations, and a setting for each value.

    Raises:
        ConfigError: `--vary` is given as well.
    """
    from ..config import ConfigError
    from ..experiments import ablations

    if args.vary:
        raise ConfigError(
            "--vary: not read by reproduce ablations; expected one of them. Vary keys of base2new instead"
        )
    rules = replace(PROTOCOLS[ablations.PROTOCOL], paper=ablations.PAPER, miniature=ablations.MINIATURE)
    varied = [each for one in ablations.ABLATIONS for each in one.variations(args.miniature)]
    return [_plan(rules, args)], [shared.with_variation(each) for each in varied]


def _teachers(shared: "Setting", args: argparse.Namespace) -> "tuple[list[Plan], list[Setting]]":
    """Return the plans of the teachers, and their setting.

    Raises:
        ConfigError: an argument is given that they do not read.
    """
    from ..config import ConfigError
    from ..experiments import teachers

    given = {"--vary": args.vary, "--hosts": args.hosts, "--boost": args.boost, "--sources": args.sources}
    given |= {"--targets": args.targets, "--shots-list": args.shots_list, "--shots": args.shots != SHOTS}
    if unread := [name for name, value in given.items() if value]:
        raise ConfigError(
            f"{unread[0]}: not read by reproduce teachers; expected --datasets and --seeds. Teachers are {teachers.HOST} "
            f"with {SHOTS} images per class"
        )
    setting = replace(shared, output=shared.output / teachers.FOLDER, teachers=True)
    return teachers.plans(args.datasets, args.seeds, args.miniature), [setting]


def _report_teachers(grid: "Grid") -> None:
    """Print the figures and the folders of the teachers, and list failures."""
    for name in dict.fromkeys(result.protocol for result in grid.results):
        print(_table([result for result in grid.results if result.protocol == name]))
    failed = [job for job, _ in grid.failures]
    for job in grid.jobs:
        if job not in failed:
            print(f"TRAINER.CASPL.TEACHER.RUN {job.place}")
    _raise_failures(grid)


def _report_ablations(grid: "Grid", output: Path) -> None:
    """Print a table over each ablation's key, draw it in `<output>/ablations`, and list failures."""
    from ..experiments import ablations

    for one in ablations.ABLATIONS:
        print()
        plot = output / "ablations" / f"{one.name}.png"
        _paper_tables(output, ablations.PROTOCOL, ["--by", one.keys[0], "--plot", str(plot)])
    _raise_failures(grid)


def report(grid: "Grid", output: Path, varied: Sequence[str] = ()) -> None:
    """Print the tables of a grid's protocols, and its failures.

    Args:
        grid: the grid.
        output: the folder of all runs.
        varied: the items of `--vary`; there is a table over each key.

    Raises:
        ConfigError: there were failures.
    """
    for name in dict.fromkeys(result.protocol for result in grid.results):
        _paper_tables(output, name)
        for item in varied:
            print()
            _paper_tables(output, name, ["--by", item.partition("=")[0]])
    _raise_failures(grid)


def _raise_failures(grid: "Grid") -> None:
    """List failed jobs.

    Raises:
        ConfigError: there were failures.
    """
    from ..config import ConfigError

    for job, error in grid.failures:
        print(f"failed: {job}: {str(error).strip()}")
    if grid.failures:
        raise ConfigError(f"{len(grid.failures)} runs failed (listed above). The same command tries them again")


def _paper_tables(output: Path, protocol: str, more: Sequence[str] = ()) -> None:
    """Print the tables of all results in the output folder, with the paper's figures."""
    from . import results

    try:
        results.show([str(output), "--protocol", protocol, *more])
    except ValueError as error:  # about results of other runs in this folder; the grid's failures follow
        sys.stderr.write(f"in the tables: {error}\n")


def _grid_parser() -> argparse.ArgumentParser:
    text = "Every run of the paper's tables, with and without CasPL. Finished runs are read, failed ones listed."
    parser = arguments.parser("reproduce", text, phases=True)
    datasets: dict[str, Any] = {"nargs": "+", "type": arguments.dataset_name, "metavar": "DATASET"}
    parser.add_argument("protocol", choices=[*PROTOCOLS, "all", ABLATIONS, TEACHERS])
    parser.add_argument("--datasets", **datasets, help="default: the paper's; a transfer's sources if it is run alone")
    parser.add_argument("--sources", **datasets, help="of cross_dataset; default: imagenet")
    parser.add_argument("--targets", **datasets, default=[], help="of cross_dataset; default: all others")
    parser.add_argument(
        "--hosts", nargs="+", type=arguments.host_name, metavar="HOST", help="default: all four; few_shot: promptsrc"
    )
    parser.add_argument("--seeds", nargs="+", type=arguments.run_seed, metavar="SEED", help="default: 1 2 3")
    parser.add_argument(
        "--shots", type=arguments.shot_number, default=SHOTS, help=f"except for few_shot (default {SHOTS})"
    )
    parser.add_argument(
        "--shots-list", nargs="+", type=arguments.shot_number, metavar="SHOTS", help="of few_shot; default: 1 2 4 8 16"
    )
    _add_vary(parser)
    parser.add_argument("--miniature", action="store_true", help="the same on the embedded datasets: minutes on a CPU")
    parser.add_argument(
        "--cluster",
        choices=["none", "local", "slurm"],
        help="start the runs as jobs, on this machine or on SLURM; none, the default: one by one in this process; "
        "--miniature: local",
    )
    parser.add_argument("--jobs", type=int, default=2, help="number of jobs at a time (default 2)")
    parser.add_argument(
        "--slurm", nargs="+", default=[], metavar="NAME=VALUE", help="submitit's parameters: slurm_partition=gpu ..."
    )
    arguments.add_folders(parser)
    add_dry_run(parser)
    return parser


def _plan(rules: Protocol, args: argparse.Namespace) -> "Plan":
    """Return a protocol's part of the grid: what was asked for, by default the paper's or the miniature's."""
    from ..experiments.grid import Plan
    from ..experiments.protocols import Scope

    default = rules.miniature if args.miniature else rules.paper
    shots = default.shots
    if rules.layout == "shots":
        shots = args.shots_list or shots
    elif args.shots != SHOTS:
        shots = (args.shots,)
    datasets = args.datasets
    if rules.target_options is not None:  # its datasets are sources
        datasets = args.sources or (args.datasets if args.protocol == rules.name else None)
    seeds, hosts = args.seeds or default.seeds, args.hosts or default.hosts
    return Plan(
        rules.name, Scope(tuple(datasets or default.datasets), tuple(seeds), tuple(hosts), tuple(shots)), args.targets
    )
