"""The engine against the plain definition: time, counted operations and memory of training steps and evaluations.

    python scripts/bench.py [--size vit_b16] [--works CasPL_CoOp phase1 ...] [--classes 50 ...] [--json FILE]

"plain" is the definition that the tests hold the engine against, which is what the published code does: full sequences of
77 tokens, every token through every block, class features anew for every test batch. Both run in this process, in
turns. Operations are those of matrix products, convolutions and attention; memory is what a step takes beside the
weights; "share" is the part of the machine's own matrix-product rate that the engine reaches. "over host" is the time of CasPL
over that of its host alone, both on the engine.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "scripts" / "caspl")]

import runs  # noqa: E402,F401  isort: skip (makes `dassl` and `clip` importable)
import torch  # noqa: E402
from benchmark import measure, works  # noqa: E402
from tabulate import tabulate  # noqa: E402

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NAMES = [*(f"CasPL_{host}" for host in works.HOSTS), "phase1", "evaluation"]
HEADERS = ["", "classes", "plain s", "engine s", "time", "operations", "memory", "share", "over host", "engine GFLOP"]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(works.SIZES), default="vit_b16", help="the student's size")
    parser.add_argument("--works", nargs="+", choices=NAMES, default=NAMES, help="what to measure")
    parser.add_argument("--classes", nargs="+", type=int, default=[10, 50, 199, 397, 1000], help="numbers of classes")
    parser.add_argument("--batch", type=int, default=0, help="images a step (default: the recipes')")
    parser.add_argument("--images", type=int, default=1000, help="images of the test set")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed; 0: only counted")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=list(TYPES), default="fp32", help="of CLIP's weights")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measure, print a line for each as it is known, and the table at the end."""
    args = parse(argv)
    device, dtype = torch.device(args.device), TYPES[args.dtype]
    rate = measure.matrix_rate(device, dtype)
    figures = {"size": args.size, "device": _device(device), "dtype": args.dtype, "torch": torch.__version__}
    figures |= {"threads": torch.get_num_threads(), "matrix_rate": rate, "rows": []}
    print(f"{figures['device']}, {args.dtype}, matrix products at {rate / 1e9:.0f} GFLOP/s")
    for name in args.works:
        for classes in args.classes:
            row = row_of(name, classes, args, device, dtype, rate)
            figures["rows"].append(row)
            print(_line(row), flush=True)
            if args.json:
                args.json.write_text(json.dumps(figures, indent=2) + "\n")
    print("\n" + tabulate([_cells(row) for row in figures["rows"]], headers=HEADERS, tablefmt="github"))


def row_of(name: str, classes: int, args: argparse.Namespace, device, dtype, rate: float) -> dict:
    """The figures of one work."""
    torch.manual_seed(0)
    size = works.SIZES[args.size]
    if name == "evaluation":
        made = works.evaluation_works(size, classes, device, dtype, args.images)
    elif name == "phase1":
        made = works.boosting_works(size, classes, device, dtype, args.batch)
    else:
        made = works.host_works(name.removeprefix("CasPL_"), size, classes, device, dtype, args.batch)
    row = {"work": name, "classes": classes}
    row["operations"] = {key: measure.operations(work) for key, work in made.items()}
    row["memory"] = {key: measure.peak_bytes(work, device) for key, work in made.items()}
    if args.rounds:
        medians = measure.in_turns(list(made.values()), args.rounds, device)
        row["seconds"] = dict(zip(made, medians, strict=True))
        row["share"] = row["operations"]["engine"] / row["seconds"]["engine"] / rate
    return row


def _ratio(figures: dict, over: str = "plain", under: str = "engine") -> float:
    return figures[over] / figures[under]


def _cells(row: dict) -> list[str]:
    times = row.get("seconds")
    operations, memory = f"{_ratio(row['operations']):.2f}", f"{1 / _ratio(row['memory']):.2f}"
    if "cached" in row["operations"]:
        operations += f" ({_ratio(row['operations'], under='cached'):.2f} cached)"
    engine = f"{row['operations']['engine'] / 1e9:.0f}"
    start, end = [row["work"], str(row["classes"])], [operations, memory]
    if not times:
        return [*start, "", "", "", *end, "", "", engine]
    ratio = f"{_ratio(times):.2f}"
    if "cached" in times:
        ratio += f" ({_ratio(times, under='cached'):.2f} cached)"
    over_host = f"{_ratio(times, 'engine', 'host'):.3f}" if "host" in times else ""
    shown = [f"{times['plain']:.3f}", f"{times['engine']:.3f}", ratio]
    return [*start, *shown, *end, f"{row['share']:.2f}", over_host, engine]


def _line(row: dict) -> str:
    return "  ".join(f"{head} {cell}".strip() for head, cell in zip(HEADERS, _cells(row), strict=True) if cell)


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"


if __name__ == "__main__":
    runs.as_program(main)
