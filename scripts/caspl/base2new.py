"""Base-to-new generalisation: phase 1 (once a dataset), phase 2 on the base classes, base and new accuracy, a table."""

import argparse
from pathlib import Path

from runs import (
    Setting,
    adapt,
    add_arguments,
    as_program,
    boost,
    dataset_name,
    evaluate,
    finished,
    harmonic_mean,
    host_name,
    run_seed,
    save_result,
)
from tabulate import tabulate

BASE, NEW = ["DATASET.SUBSAMPLE_CLASSES", "base"], ["DATASET.SUBSAMPLE_CLASSES", "new"]


def main() -> None:
    """Command line: base2new.py <dataset> <seed> [--host H] [--shots N] ... [KEY VALUE ...]"""
    parser = argparse.ArgumentParser(prog="base2new.sh", description=__doc__)
    parser.add_argument("dataset", type=dataset_name, help="shapes, oxford_pets, ... (see configs/datasets)")
    parser.add_argument("seed", type=run_seed, help="seed of the few-shot draw and of phase 2")
    parser.add_argument("--host", type=host_name, default="CoOp", help="coop, cocoop, maple or promptsrc")
    parser.add_argument("--shots", type=int, default=16, help="images a class in phase 2 (default 16)")
    parser.add_argument("--baseline", action="store_true", help="also the host alone and zero-shot CLIP")
    add_arguments(parser)
    args = parser.parse_intermixed_args()
    setting = Setting(args.dataset, args.data, args.output, args.opts)
    boosting = boost(setting)
    rows = []
    if args.baseline or args.dataset == "shapes":
        rows += [zero_shot(setting, args.seed), host_run(setting, args.host, args, None)]
    rows.append(host_run(setting, f"CasPL_{args.host}", args, boosting))
    print(table(rows))


def host_run(setting: Setting, trainer: str, args: argparse.Namespace, boosting: Path | None) -> dict:
    """Train on the base classes, test on both halves; a run that is finished is only read."""
    folder = setting.output / "base2new" / setting.dataset / trainer / f"shots_{args.shots}" / f"seed_{args.seed}"
    options = ["DATASET.NUM_SHOTS", str(args.shots)]
    if boosting is not None:
        options += ["TRAINER.CASPL.CHECKPOINT", str(boosting)]
    if (result := finished(setting, trainer, args.seed, folder, options + BASE, boosting)) is not None:
        return result
    base = adapt(setting, trainer, args.seed, folder, options + BASE)
    new = evaluate(setting, trainer, args.seed, folder, options + NEW)
    figures = {
        "dataset": setting.dataset,
        "trainer": trainer,
        "host": args.host,
        "seed": args.seed,
        "shots": args.shots,
    }
    figures |= {"base": base, "new": new, "hm": harmonic_mean(base, new)}
    save_result(folder, figures, boosting)
    return figures


def zero_shot(setting: Setting, seed: int) -> dict:
    """Stock CLIP with the dataset's template, on both halves."""
    folder = setting.output / "base2new" / setting.dataset / "ZeroshotCLIP"
    base, new = (evaluate(setting, "ZeroshotCLIP", seed, folder, half) for half in (BASE, NEW))
    return {"trainer": "ZeroshotCLIP", "base": base, "new": new, "hm": harmonic_mean(base, new)}


def table(rows: list[dict]) -> str:
    """The rows, for people."""
    cells = [[row["trainer"], row["base"], row["new"], row["hm"]] for row in rows]
    return tabulate(cells, headers=["", "base", "new", "harmonic mean"], floatfmt=".2f")


if __name__ == "__main__":
    as_program(main)
