"""Check a GPU: the tests marked `gpu`, then training steps in all precisions, batch sizes and numbers of classes.

    bash scripts/gpu_check.sh [--output FOLDER] [--minutes 10] [--device cuda] [--quick]

`gpu_check.json` and `gpu_check.md` in the output folder hold the figures: milliseconds and images per second of a step,
its share of the device's matrix-product rate, and its peak memory without weights (a replay allocates none). Variants:
"plain" is the reference implementation of the tests, "engine" runs eagerly, "compiled" compiles the towers' inner blocks,
"graphed" replays the step from a CUDA graph, and "compiled, graphed" does both. "first s" is the time of the first step,
which compiles if that is not in PyTorch's cache. Each part is independent; a part that is skipped or fails reports why.
"""

import argparse
import gc
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import torch

from trainers.engine import blocks_gpu
from trainers.pytorch import COMPILE, has_pytorch
from trainers.training.graphs import WARM_UP, GraphedStep

from . import measure, works

ROOT = Path(__file__).resolve().parents[2]
TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
VARIANTS = ("plain", "engine", "compiled", "graphed", "compiled, graphed")
NAMES = ("CoOp", "MaPLe", "CoCoOp", "PromptSRC", "phase1")
BATCHES, CLASSES = (4, 32, 128), (50, 199, 1000)
ROUNDS = 7
TESTS_SHARE = 0.5  # of the time, at most, for the tests
MOST_WORKERS = 6  # that share a GPU
COLUMNS = ("step", "dtype", "batch", "classes", "variant", "first s", "ms", "images/s", "share", "peak MiB", "skipped")


class Skipped(Exception):
    """A part that cannot run here; the message is the reason."""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to check this program")
    parser.add_argument("--quick", action="store_true", help="small models and few measurements")
    parser.add_argument("--minutes", type=float, default=10, help="measurements end after this time")
    parser.add_argument("--output", type=Path, default=Path("gpu_check"), help="folder of the figures")
    return parser.parse_args(argv)


def part(found: dict, name: str, work: Callable[[], object]) -> None:
    """Run a part; keep its result, or the reason why there is none."""
    try:
        found[name] = work()
    except Skipped as reason:
        found[name] = {"skipped": str(reason)}
    except Exception as error:  # the other parts are still worth running
        traceback.print_exc()
        found[name] = {"failed": f"{type(error).__name__}: {error}"[:300]}


def describe(device: torch.device) -> dict:
    """Return the versions of the software and the device."""
    found = {"python": sys.version.split()[0], "torch": torch.__version__, "cuda": torch.version.cuda or ""}
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise Skipped("PyTorch finds no GPU")
        found |= {"device": torch.cuda.get_device_name(), "gpus": torch.cuda.device_count()}
    return found


def run_tests(seconds: float) -> dict:
    """Run the tests marked `gpu`; return their numbers, and the first line of each reason."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "tests/gpu", f"--junitxml={report}"]
        workers = _workers()
        if workers > 1:
            command += ["-n", str(workers)]
        env = {"OMP_NUM_THREADS": str((os.cpu_count() or 1) // workers), **os.environ}
        try:
            done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise Skipped(f"the tests took longer than {seconds:.0f} s: {_so_far(error.stdout)}") from error
        if not report.is_file():
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
            raise Skipped(f"pytest did not run: {lines[-1][:300]}")
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    kinds = ("failure", "error", "skipped")
    found = {kind: [case for case in cases if case.find(kind) is not None] for kind in kinds}
    reasons = [f"{case.get('name')}: {_reason(case, kind)}" for kind in kinds[:2] for case in found[kind]]
    reasons += sorted({_reason(case, "skipped") for case in found["skipped"]})
    counts = {kind: len(of_kind) for kind, of_kind in found.items()}
    return {"passed": len(cases) - sum(counts.values()), **counts, "reasons": reasons}


def _workers() -> int:
    """Return the number of processes that run the tests; one if pytest-xdist is not installed."""
    return max(1, min(MOST_WORKERS, (os.cpu_count() or 1) // 2)) if importlib.util.find_spec("xdist") else 1


def _so_far(output: bytes | str | None) -> str:
    """Return how many tests had passed, and the names of those that had failed, in the output of pytest."""
    text = output.decode(errors="replace") if isinstance(output, bytes) else output or ""
    ended = [line.split("::")[-1].split() for line in text.splitlines() if "::" in line]
    passed = sum("PASSED" in words for words in ended)
    failed = [words[0] for words in ended if "FAILED" in words or "ERROR" in words]
    return f"{passed} passed, {len(failed)} failed{': ' if failed else ''}{', '.join(failed)}"


def _reason(case: ElementTree.Element, kind: str) -> str:
    element = case.find(kind)
    return "" if element is None else (element.get("message") or "").splitlines()[0][:200]


def steps_of(name: str, args: argparse.Namespace, classes: int, batch: int, dtype: torch.dtype) -> dict:
    """Return the steps of a host or of phase 1 by variant; compiled and graphed ones are the engine's."""
    size, device = works.SIZES["small" if args.quick else "vit_b16"], torch.device(args.device)
    torch.manual_seed(0)
    if name == "phase1":
        return works.boosting_works(size, classes, device, dtype, batch)
    return works.host_works(name, size, classes, device, dtype, batch)


def measured(step: works.Step, variant: str, batch: int, device: torch.device, rate: float) -> dict:
    """Return the figures of a variant of a step.

    Raises:
        Skipped: the variant cannot run here.
    """
    work: Callable[[], object] = step
    compiled, graphed = "compiled" in variant, "graphed" in variant
    if compiled and not has_pytorch(COMPILE):
        raise Skipped(f"compiling needs PyTorch {COMPILE[0]}.{COMPILE[1]} or newer")
    if graphed and device.type != "cuda":
        raise Skipped("a CUDA graph needs a GPU")
    if graphed:
        work = _graphed(step)
    if compiled:
        blocks_gpu.compile_inner_blocks("inductor" if device.type == "cuda" else "aot_eager")
    try:
        row = {"first s": measure.seconds(work, device)}
        for _ in range(WARM_UP + 1):
            work()
        count = measure.operations(step) if variant in ("plain", "engine") else 0
        seconds = statistics.median(measure.seconds(work, device) for _ in range(ROUNDS))
        row |= {"ms": 1000 * seconds, "images/s": batch / seconds}
        if not graphed:
            row["peak MiB"] = measure.peak_bytes(work, device) / 2**20
        return row | {"operations": count, "share": count / seconds / rate if count else 0}
    finally:
        blocks_gpu.compile_inner_blocks(None)


def _graphed(step: works.Step) -> Callable[[], object]:
    parameters = [parameter for parameter in step.model.parameters() if parameter.requires_grad]
    graphed = GraphedStep(lambda batch: {"loss": step()}, parameters, required=True)
    nothing = {"img": torch.zeros(1, device="cuda")}  # the step's images do not change
    return lambda: graphed(nothing)


def cells(args: argparse.Namespace) -> Iterator[tuple[str, str, int, int]]:
    """Yield (name, dtype, batch, classes) of all steps, the paper's first."""
    if args.quick:
        yield from ((name, "fp32", 4, 5) for name in ("CoOp", "phase1"))
        return
    for dtype in TYPES:
        for classes in CLASSES:
            for batch in BATCHES:
                yield from ((name, dtype, batch, classes) for name in NAMES)


def bench(args: argparse.Namespace, end: float, rows: list[dict]) -> dict:
    """Measure all steps until the time is over; add a row per variant. Return the matrix rates in GFLOP/s.

    Raises:
        Skipped: there is no GPU.
    """
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise Skipped("PyTorch finds no GPU")
    rates: dict[str, float] = {}
    missing: dict[str, str] = {}
    for dtype in dict.fromkeys(dtype for _, dtype, _, _ in cells(args)):
        try:
            rates[dtype] = measure.matrix_rate(device, TYPES[dtype])
        except RuntimeError as error:  # an old GPU has no bfloat16
            missing[dtype] = f"{dtype} matrix products: {error}".splitlines()[0][:200]
    for name, dtype, batch, classes in cells(args):
        where = {"step": name, "dtype": dtype, "batch": batch, "classes": classes}
        if dtype in missing:
            rows += [{**where, "variant": variant, "skipped": missing[dtype]} for variant in VARIANTS]
        else:
            rows += _rows(where, args, end, rates[dtype])
    return {name: rate / 1e9 for name, rate in rates.items()}


def _rows(where: dict, args: argparse.Namespace, end: float, rate: float) -> list[dict]:
    """Return the rows of the variants of a step, each with its figures or the reason why it was skipped."""
    name, dtype, batch, classes = where.values()
    made: dict | None = None
    rows: list[dict] = []
    for variant in VARIANTS:
        row = {**where, "variant": variant}
        try:
            if time.monotonic() > end:
                raise Skipped("the time is over; see --minutes")
            made = made or steps_of(name, args, classes, batch, TYPES[dtype])
            step = made["plain" if variant == "plain" else "engine"]
            row |= measured(step, variant, batch, torch.device(args.device), rate)
        except Skipped as reason:
            row["skipped"] = str(reason)
        except Exception as error:  # most often, the memory of the GPU
            row["skipped"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            gc.collect()
            if args.device == "cuda":
                torch.cuda.empty_cache()
        rows.append(row)
    engine = next((row for row in rows if row["variant"] == "engine" and "ms" in row), None)
    for row in rows:
        if engine and "ms" in row and row["variant"] not in ("plain", "engine"):  # the same operations
            row["operations"] = engine["operations"]
            row["share"] = row["operations"] / (row["ms"] / 1000) / rate
    return rows


def write(folder: Path, found: dict) -> None:
    """Write the figures as JSON and Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu_check.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = ["# GPU check", ""]
    lines += [f"- {name}: {json.dumps(found[name])}" for name in ("machine", "tests", "matrix rates, GFLOP/s")]
    lines += ["", f"| {' | '.join(COLUMNS)} |", "|" + " --- |" * len(COLUMNS)]
    for row in found["rows"]:
        lines.append(f"| {' | '.join(_cell(row.get(column, '')) for column in COLUMNS)} |")
    (folder / "gpu_check.md").write_text("\n".join(lines) + "\n")


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "/")


def main(argv: list[str] | None = None) -> int:
    """Run all parts; return 1 if a test failed or a part could not finish."""
    args = parse(argv)
    start, device = time.monotonic(), torch.device(args.device)
    end = start + 60 * args.minutes
    found: dict = {"rows": []}
    part(found, "machine", lambda: describe(device))
    part(found, "tests", lambda: run_tests(60 * args.minutes * TESTS_SHARE))
    write(args.output, found | {"matrix rates, GFLOP/s": "not measured yet"})
    torch.backends.mkldnn.enabled = device.type != "cpu"  # a CPU runs the GPU's implementation of the towers
    part(found, "matrix rates, GFLOP/s", lambda: bench(args, end, found["rows"]))
    write(args.output, found)
    print((args.output / "gpu_check.md").read_text())
    failed = [name for name, value in found.items() if isinstance(value, dict) and "failed" in value]
    tests = found["tests"]
    return int(bool(failed or tests.get("failure") or tests.get("error")))
