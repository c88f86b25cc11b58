"""Compare the engine with the plain definition: time, operations and memory of training steps and evaluations.

    python scripts/bench.py [--size vit_b16] [--works CasPL_CoOp phase1 ...] [--classes 50 ...] [--json FILE]
    python scripts/bench.py --launches [--works CasPL_CoOp phase1 ...] [--classes 50 ...] [--dtype fp16]
    python scripts/bench.py --deploy [--sizes vit_b16 ...] [--images 16] [--classes 100] [--plot FILE] [--json FILE]

"plain" is the reference implementation of the tests, which computes what the published code does: full sequences of 77
tokens, every token through every block, class features for every test batch. Both run in this process, alternating.

Columns: "time" and "operations" are ratios plain / engine; operations are those of matrix products, convolutions and
attention. "memory" is the ratio engine / plain of the peak memory of a step, without weights. "share" is the share of this
machine's matrix-product rate that the engine reaches. "over host" is the time of CasPL relative to its host alone, both on
the engine.

Class names have 8 tokens on average. 9 % of their tokens at 50 classes and 18 % at 1,000 are shared with another name
(Stanford Cars 14 %, FGVC Aircraft 24 %, SUN397 5 %). Training steps use the recipes' batch sizes. Evaluations use test
batches of 100: CoOp, whose class features do not depend on the image (like MaPLe's and PromptSRC's), and CoCoOp, whose
class features do, on a hundredth of the images.

`--launches` counts the kernels that a training step launches on a GPU instead: ATen operations without views and
allocations, forward and backward, 12 blocks. It needs no GPU, because the CPU runs the GPU's implementation for it.

`--deploy` measures images per second of teacher, student, boosted student and CasPL instead, by the engine and by
onnxruntime in float32 and int8, with their parameters and file sizes, on the CPU.
"""

import argparse
import json
import logging
from pathlib import Path

import torch
from tabulate import tabulate

from trainers.engine import memory

from . import deploy, measure, works

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NAMES = [*(f"CasPL_{host}" for host in works.HOSTS), "phase1", "evaluation", "evaluation_CoCoOp"]
HEADERS = [
    "",
    "classes",
    "plain s",
    "engine s",
    "time",
    "operations",
    "memory",
    "share",
    "over host",
    "engine GFLOP",
    "engine MiB",
]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(works.SIZES), default="vit_b16", help="the student's size")
    parser.add_argument("--works", nargs="+", choices=NAMES, default=NAMES, help="what to measure")
    parser.add_argument("--classes", nargs="+", type=int, default=[10, 50, 199, 397, 1000], help="numbers of classes")
    parser.add_argument("--batch", type=int, default=0, help="images per step (default: the recipes' batch sizes)")
    parser.add_argument("--images", type=int, default=1000, help="number of test images")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds; 0: counts only")
    parser.add_argument(
        "--engine-only", action="store_true", help="skip the plain definition, for sizes that do not fit"
    )
    parser.add_argument(
        "--free", type=float, metavar="GIB", help="choose class chunks as if this much memory were free"
    )
    parser.add_argument("--launches", action="store_true", help="count kernel launches of training steps on a GPU")
    parser.add_argument("--deploy", action="store_true", help="compare what is deployed: speed and size")
    sizes = {"nargs": "+", "choices": list(works.SIZES), "default": ["vit_b32", "vit_b16", "vit_l14"]}
    parser.add_argument("--sizes", **sizes, help="the backbones of --deploy")
    parser.add_argument("--plot", type=Path, help="image file for accuracy against speed, of --deploy")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=list(TYPES), default="fp32", help="dtype of CLIP's weights")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measure all works; print a line per result and a table at the end."""
    args = parse(argv)
    if args.free:
        memory.free_bytes = lambda device: int(args.free * 2**30)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device, dtype = torch.device(args.device), TYPES[args.dtype]
    if args.launches:
        print_launches(args, dtype)
        return
    if args.deploy:
        deploy.run(args)
        return
    rate = measure.matrix_rate(device, dtype)
    figures = {"size": args.size, "device": _device(device), "dtype": args.dtype, "torch": torch.__version__}
    figures |= {"threads": torch.get_num_threads(), "matrix_rate": rate, "rows": []}
    print(f"{figures['device']}, {args.dtype}, matrix products at {rate / 1e9:.0f} GFLOP/s")
    for name in args.works:
        for classes in args.classes:
            # Measured for each row, because the load of the machine may change.
            rate = figures["matrix_rate"] = max(rate, measure.matrix_rate(device, dtype))
            row = row_of(name, classes, args, device, dtype, rate)
            figures["rows"].append(row)
            print(_line(row), flush=True)
            if args.json:
                args.json.write_text(json.dumps(figures, indent=2) + "\n")
    print("\n" + tabulate([_cells(row) for row in figures["rows"]], headers=HEADERS, tablefmt="github"))


def print_launches(args: argparse.Namespace, dtype: torch.dtype) -> None:
    """Print the launches of training steps, by the number of classes."""
    steps = [name for name in args.works if not name.startswith("evaluation")]
    rows = [
        {"": name, "classes": classes, **launches_of(name, classes, dtype, not args.engine_only)}
        for name in steps
        for classes in args.classes
    ]
    print(tabulate(rows, headers="keys", tablefmt="github", missingval=""))


def launches_of(name: str, classes: int, dtype: torch.dtype = torch.float32, plain: bool = True) -> dict[str, int]:
    """Count the launches of a training step on a GPU.

    Args:
        name: the work, one of `NAMES` that trains.
        classes: number of classes.
        dtype: dtype of CLIP's weights.
        plain: whether to count the plain definition too.

    Returns:
        The counts by the name of the implementation.
    """
    torch.manual_seed(0)
    size, cpu = works.SIZES["narrow_b16"], torch.device("cpu")
    with torch.backends.mkldnn.flags(enabled=False):  # the CPU runs the GPU's implementation
        if name == "phase1":
            made = works.boosting_works(size, classes, cpu, dtype)
        else:
            made = works.host_works(name.removeprefix("CasPL_"), size, classes, cpu, dtype)
        if not plain:
            del made["plain"]
        for work in made.values():
            work()  # builds the plans and masks
        return {key: measure.launches(work) for key, work in made.items()}


def row_of(name: str, classes: int, args: argparse.Namespace, device, dtype, rate: float) -> dict:
    """The figures of one work."""
    torch.manual_seed(0)
    made = works_of(name, classes, args, device, dtype)
    if args.engine_only:
        del made["plain"]
    row = {"work": name, "classes": classes}
    row["operations"] = {key: measure.operations(work) for key, work in made.items()}
    row["memory"] = {key: measure.peak_bytes(work, device) for key, work in made.items()}
    if args.rounds:
        medians = measure.in_turns(list(made.values()), args.rounds, device)
        row["seconds"] = dict(zip(made, medians, strict=True))
        row["share"] = row["operations"]["engine"] / row["seconds"]["engine"] / rate
    return row


def works_of(name: str, classes: int, args: argparse.Namespace, device, dtype) -> dict[str, measure.Work]:
    """Return the works to compare, by the name of the implementation."""
    size = works.SIZES[args.size]
    if name == "evaluation":
        return works.evaluation_works("CoOp", size, classes, device, dtype, args.images)
    if name == "evaluation_CoCoOp":
        return works.evaluation_works("CoCoOp", size, classes, device, dtype, max(1, args.images // 100))
    if name == "phase1":
        return works.boosting_works(size, classes, device, dtype, args.batch)
    return works.host_works(name.removeprefix("CasPL_"), size, classes, device, dtype, args.batch)


def _ratios(figures: dict[str, float]) -> str:
    """Format the ratio plain / engine, and plain / cached if the teacher can be cached."""
    if "plain" not in figures:
        return ""
    shown = f"{figures['plain'] / figures['engine']:.2f}"
    return shown + (f" ({figures['plain'] / figures['cached']:.2f} cached)" if "cached" in figures else "")


def _cells(row: dict) -> list[str]:
    times, operations, kept = row.get("seconds", {}), row["operations"], row["memory"]
    return [
        row["work"],
        str(row["classes"]),
        f"{times['plain']:.3f}" if "plain" in times else "",
        f"{times['engine']:.3f}" if times else "",
        _ratios(times),
        _ratios(operations),
        f"{kept['engine'] / kept['plain']:.2f}" if "plain" in kept else "",
        f"{row['share']:.2f}" if times else "",
        f"{times['engine'] / times['host']:.3f}" if "host" in times else "",
        f"{operations['engine'] / 1e9:.0f}",
        f"{kept['engine'] / 2**20:.0f}",
    ]


def _line(row: dict) -> str:
    return "  ".join(f"{head} {cell}".strip() for head, cell in zip(HEADERS, _cells(row), strict=True) if cell)


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
