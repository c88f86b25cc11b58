"""What a protocol on a dataset costs: steps, images, operations, memory, disk and hours. Needs no data or weights.

    caspl cost DATASET [--host HOST] [--protocol PROTOCOL] [--shots N] [--rate TFLOPS | --measure]

Operations are those of matrix products, convolutions and attention, counted on models without weights, with class names
of 8 tokens on average. Memory is the peak on a GPU in the recipe's precision, if all classes are computed at once; with
less memory they are computed in several passes. Hours are those of computing; reading images is not included.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import arguments
from .program import guarded, hide_information

if TYPE_CHECKING:
    from ..experiments.cost import Part

HEADERS = ["", "steps", "images", "TFLOP", "memory GiB", "disk MiB", "hours"]


def add_rate(parser: argparse.ArgumentParser) -> None:
    """Add the options that turn operations into hours."""
    rates = parser.add_mutually_exclusive_group()
    rates.add_argument("--rate", type=_rate, metavar="TFLOPS", help="the device's rate, in TFLOP/s, for hours")
    rates.add_argument("--measure", action="store_true", help="measure the rate of this device on a few steps")


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}; expected TFLOP/s above 0, such as 50")
    return rate


def table(parts: Sequence["Part"], rate: float | None, measured: bool = False) -> str:
    """Return the costs as a table with a total.

    Args:
        parts: the costs.
        rate: TFLOP/s; None without one.
        measured: whether each part has a measured rate.
    """
    from tabulate import tabulate

    from ..experiments.cost import total

    timed, whole = bool(rate) or measured, total(parts)
    hours = [part.hours((rate or 0) * 1e12) for part in parts] if timed else []
    last = [[_hours(each)] for each in (*hours, sum(hours))] if timed else [[]] * (len(parts) + 1)
    body = [_cells(part) + cells for part, cells in zip([*parts, whole], last, strict=True)]
    lines = [tabulate(body, HEADERS[: 6 + timed], disable_numparse=True, colalign=["left", *["right"] * (5 + timed)])]
    if measured:
        rates = ", ".join(f"{part.name}: {part.rate / 1e12:.3g}" for part in parts)
        lines.append(f"Measured TFLOP/s of this device: {rates}")
    elif not rate:
        lines.append("Hours: give the device's rate with --rate TFLOPS, or --measure it")
    return "\n".join([*lines, *(f"Note: {remark}" for remark in whole.remarks)])


def _cells(part: "Part") -> list[str]:
    numbers = (part.operations / 1e12, part.memory / 2**30, part.disk / 2**20)
    return [part.name, f"{part.steps:,}", f"{part.images:,}", *map(_number, numbers)]


def _number(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.2g}"


def _hours(hours: float) -> str:
    return f"{hours:.2f}" if hours >= 0.1 else f"{hours:.4f}"


def cost(argv: list[str] | None = None) -> None:
    """Print the cost of one run of a protocol: both phases and the evaluation."""
    args = arguments.parse(_parser(), argv, phases=True)
    from ..experiments import cost as counting
    from ..experiments.setting import Setting
    from ..pytorch import COST, check_pytorch

    check_pytorch("caspl cost", COST)
    setting = Setting(args.dataset, args.data, args.output, args.opts, args.protocol, [], args.boost, args.adapt)
    cascaded = f"CasPL_{args.host}"
    setting.check_options(["CasPL", cascaded])
    hide_information()
    known: set[tuple] = set()
    parts = counting.phase_1(setting, args.measure, known)
    parts += counting.costs(setting, cascaded, 1, args.shots, args.measure, known)
    print(table(parts, args.rate, args.measure))


def _parser() -> argparse.ArgumentParser:
    from ..experiments.protocols import PROTOCOLS

    parser = arguments.parser("cost", __doc__, phases=True)
    parser.add_argument("dataset", type=arguments.dataset_name)
    parser.add_argument("--host", type=arguments.host_name, default="PromptSRC", help="default: promptsrc")
    parser.add_argument(
        "--protocol", type=_protocol, choices=list(PROTOCOLS), default="base2new", help="default: base2new"
    )
    parser.add_argument("--shots", type=arguments.shot_number, default=16, help="images per class (default 16)")
    add_rate(parser)
    arguments.add_folders(parser)
    return parser


def _protocol(text: str) -> str:
    return text.replace("-", "_")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(lambda: cost(argv))
