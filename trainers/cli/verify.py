"""Check real data and weights against published facts and figures.

    caspl verify DATASET|all --data DIR [--output DIR] [--weights] [--quick] [--host HOST] [--dry-run]

Compares counts, split files, zero-shot accuracy and, without --quick, one seed of a host with and without CasPL with
what is published. Each line has the expected and the found value; the same is in <output>/verify.json, which you can
attach to an issue. The exit code is 0 if nothing differs, else 1.
"""

import argparse

from . import arguments
from .dry_run import add_dry_run, check_dry_run, show_jobs
from .program import guarded

OWN = ("csv", "image_folder", "unlabelled_folder")  # have no published figures


def verify(argv: list[str] | None = None) -> int:
    """Run the checks, print a line each, and return the exit code."""
    args = arguments.parse(_parser(), argv)
    check_dry_run(args)
    from ..experiments import verify as kit
    from ..experiments.places import dataset_files
    from ..experiments.setting import Setting

    names = [name for name in dataset_files() if name not in OWN] if args.dataset == "all" else [args.dataset]
    settings = [Setting(name, args.data, args.output / "verify", args.opts) for name in names]
    if args.dry_run:
        show_jobs([job for setting in settings for job in kit.jobs(setting, args.host, args.quick)], args)
        return 0
    checks = list(_shown(kit.verify_weights())) if args.weights else []
    for setting in settings:
        checks += _shown(kit.verify(setting, args.host, args.quick))
    kit.write_report(args.output / kit.FILE_NAME, checks)
    differing = sum(check.verdict == "differs" for check in checks)
    print(f"\n{differing} of {len(checks)} checks differ; report: {args.output / kit.FILE_NAME}")
    return 1 if differing else 0


def _shown(checks):
    for check in checks:
        title = f"{check.dataset} {check.name}".strip()
        print(f"{check.verdict:<8}{title}: expected {check.expected}, found {check.found}", flush=True)
        if check.cause:
            print(f"        usual cause: {check.cause}", flush=True)
        yield check


def _parser() -> argparse.ArgumentParser:
    parser = arguments.parser("verify", __doc__)
    parser.add_argument("dataset", type=_dataset_or_all, metavar="DATASET", help="a dataset, or all")
    arguments.add_folders(parser)
    parser.add_argument("--weights", action="store_true", help="also check the cached files of OpenAI's models")
    parser.add_argument("--quick", action="store_true", help="neither decode all images nor train")
    parser.add_argument("--host", type=arguments.host_name, default="CoOp", help="the host to train (default: coop)")
    add_dry_run(parser)
    return parser


def _dataset_or_all(text: str) -> str:
    return text if text == "all" else arguments.dataset_name(text)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(lambda: verify(argv))
