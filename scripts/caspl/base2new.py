"""Base-to-new generalisation: phase 1 (once a dataset), phase 2 on the base classes, base and new accuracy, a table."""

import argparse
import time
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
    locked,
    run_seed,
    save_result,
)
from tabulate import tabulate

LABELS = {"ZeroshotCLIP": "CLIP, zero-shot", "CasPL": "CLIP with the boosting prompt alone"}
BASE, NEW = ["DATASET.SUBSAMPLE_CLASSES", "base"], ["DATASET.SUBSAMPLE_CLASSES", "new"]


def main(argv: list[str] | None = None) -> None:
    """Command line: base2new.py <dataset> <seed> [--host H] [--shots N] ... [KEY VALUE ...]"""
    parser = argparse.ArgumentParser(prog="base2new.sh", description=__doc__)
    parser.add_argument("dataset", type=dataset_name, help="shapes, oxford_pets, ... (see configs/datasets)")
    parser.add_argument("seed", type=run_seed, help="seed of the few-shot draw and of phase 2")
    parser.add_argument(
        "--host", type=host_name, default="PromptSRC", help="promptsrc (default), coop, cocoop or maple"
    )
    parser.add_argument("--shots", type=int, default=16, help="images a class in phase 2 (default 16)")
    parser.add_argument("--baseline", action="store_true", help="also the host alone and zero-shot CLIP")
    add_arguments(parser)
    args = parser.parse_intermixed_args(argv)
    setting = Setting(args.dataset, args.data, args.output, args.opts)
    setting.check_options(["CasPL", f"CasPL_{args.host}"])
    boosting = boost(setting)
    results = [host_run(setting, f"CasPL_{args.host}", args.host, args.seed, args.shots, boosting)]
    if args.baseline or args.dataset == "shapes":
        alone = host_run(setting, args.host, args.host, args.seed, args.shots)
        results = [zero_shot(setting), alone, *results]
    print(table(results))


def host_run(setting: Setting, trainer: str, host: str, seed: int, shots: int, boosting: Path | None = None) -> dict:
    """Train on the base classes, test on both halves; a run that is finished is only read.

    Args:
        trainer: the host's own, or `CasPL_<host>` with its `boosting` prompt.
    """
    folder = setting.output / "base2new" / setting.dataset / trainer / f"shots_{shots}" / f"seed_{seed}"
    options = ["DATASET.NUM_SHOTS", str(shots), *BASE]
    if boosting is not None:
        options += ["TRAINER.CASPL.CHECKPOINT", str(boosting)]
    with locked(folder):
        if (result := finished(setting, trainer, seed, folder, options, boosting)) is not None:
            return result
        start = time.monotonic()
        base = adapt(setting, trainer, seed, folder, options)
        new = evaluate(setting, trainer, folder, NEW)
        figures = {"dataset": setting.dataset, "trainer": trainer, "host": host, "seed": seed, "shots": shots}
        figures |= {"base": base, "new": new, "hm": harmonic_mean(base, new), "seconds": time.monotonic() - start}
        save_result(folder, figures, boosting)
    return figures


def zero_shot(setting: Setting) -> dict:
    """Stock CLIP with the dataset's template, on both halves."""
    return _untrained(setting, "ZeroshotCLIP", setting.output / "base2new" / setting.dataset / "ZeroshotCLIP")


def boosted_zero_shot(setting: Setting) -> dict:
    """CLIP with the boosting prompt alone, without phase 2, on both halves."""
    return _untrained(setting, "CasPL", setting.boosting_dir)


def _untrained(setting: Setting, trainer: str, folder: Path) -> dict:
    start = time.monotonic()
    base, new = (evaluate(setting, trainer, folder, half) for half in (BASE, NEW))
    figures = {"trainer": trainer, "base": base, "new": new, "hm": harmonic_mean(base, new)}
    return figures | {"seconds": time.monotonic() - start}


def table(results: list[dict]) -> str:
    """The results, for people."""
    cells = [[LABELS.get(r["trainer"], r["trainer"]), r["base"], r["new"], r["hm"]] for r in results]
    return tabulate(cells, headers=["", "base", "new", "harmonic mean"], floatfmt=".2f")


if __name__ == "__main__":
    as_program(main)
