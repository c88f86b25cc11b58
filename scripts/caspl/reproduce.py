"""A whole table: every host alone and cascaded, over datasets and seeds. Finished runs are read, failed ones listed."""

import argparse
import statistics
import sys
import traceback

from base2new import LABELS, boosted_zero_shot, host_run, zero_shot
from runs import HOSTS, Setting, add_arguments, as_program, boost, config, dataset_name, host_name, run_seed
from tabulate import tabulate

PAPER = [
    *("imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft"),
    *("sun397", "dtd", "eurosat", "ucf101"),
]


def main() -> None:
    """Command line: reproduce.py base2new [--datasets ...] [--hosts ...] [--seeds ...] [--shots N]"""
    parser = argparse.ArgumentParser(prog="reproduce.sh", description=__doc__)
    parser.add_argument("protocol", choices=["base2new"])
    parser.add_argument("--datasets", nargs="+", type=dataset_name, default=PAPER, help="default: the paper's eleven")
    parser.add_argument("--hosts", nargs="+", type=host_name, default=list(HOSTS.values()), help="default: all four")
    parser.add_argument("--seeds", nargs="+", type=run_seed, default=[1, 2, 3], help="default: 1 2 3")
    parser.add_argument("--shots", type=int, default=16, help="images a class in phase 2 (default 16)")
    add_arguments(parser)
    args = parser.parse_args()
    Setting("", args.data, args.output, args.opts).check_options(["CasPL", *args.hosts])
    failures = []
    for dataset in args.datasets:
        results = base2new(Setting(dataset, args.data, args.output, args.opts), args, failures)
        print(f"\n{dataset}\n{table(results)}\n")
    for what, error in failures:
        print(f"failed: {what}: {error}")
    if failures:
        raise config.ConfigError(f"{len(failures)} runs failed (listed above); the same command tries them again")


def base2new(setting: Setting, args: argparse.Namespace, failures: list) -> list[dict]:
    """All runs on one dataset; what fails is added to `failures`, and the rest goes on."""
    results = []

    def attempt(what, *arguments):
        try:
            results.append(what(*arguments))
            return results[-1]
        except Exception as error:  # a grid of days must not end because of one run
            traceback.print_exc(file=sys.stderr)
            failures.append((f"{setting.dataset} {' '.join(map(str, arguments[1:-1]))}", error))

    attempt(zero_shot, setting)
    try:
        boosting = boost(setting)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        failures.append((f"{setting.dataset} phase 1", error))
        boosting = None
    if boosting is not None:
        attempt(boosted_zero_shot, setting)
    for host in args.hosts:
        for seed in args.seeds:
            attempt(host_run, setting, host, host, seed, args.shots)
            if boosting is not None:
                attempt(host_run, setting, f"CasPL_{host}", host, seed, args.shots, boosting)
    return results


def table(results: list[dict]) -> str:
    """Mean and standard deviation over the seeds of each trainer, and the mean time of a run."""
    trainers = dict.fromkeys(result["trainer"] for result in results)
    rows = []
    for trainer in trainers:
        runs = [result for result in results if result["trainer"] == trainer]
        row = [LABELS.get(trainer, trainer)]
        row += [_mean_std([run[key] for run in runs]) for key in ("base", "new", "hm")]
        rows.append([*row, f"{statistics.mean(run['seconds'] for run in runs):.0f} s"])
    headers = ["", "base", "new", "harmonic mean", "a run"]
    return tabulate(rows, headers=headers, stralign="right", tablefmt="github")


def _mean_std(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


if __name__ == "__main__":
    as_program(main)
