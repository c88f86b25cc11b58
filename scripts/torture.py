"""Kill runs at random, damage files, and give wrong values, for some hours; count what happened by kind.

    python scripts/torture.py --hours 4 [--seed N] [--folder DIR]

Each case has an oracle: the figures of the intact run, or a rejection (exit code 2, one error line). The exit code is 1 if
a result differs, a wrong value or a damaged file passes silently, a file is executed, a traceback appears, or a command
hangs. `--seed` repeats a run; each bad case is printed with its seed, and `--case SEED` repeats it alone.
"""

import argparse
import os
import random
import runpy
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")  # children are forked
runpy.run_path(str(Path(__file__).resolve().parents[1] / "train.py"))  # puts the checkout on the path

WEIGHTS = {"kill": 1, "file": 6, "value": 4}


def main() -> int:
    """Run cases until the time is over; print the counts, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=1 / 60, help="how long (default: one minute)")
    parser.add_argument("--seed", type=int, default=None, help="seed of the first case (default: drawn)")
    parser.add_argument("--case", type=int, default=None, help="run the case of this seed alone")
    parser.add_argument("--folder", type=Path, default=None, help="scratch folder (default: a temporary one)")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="torture-", dir=args.folder))
    first = (
        args.case
        if args.case is not None
        else args.seed
        if args.seed is not None
        else random.SystemRandom().randrange(10**9)
    )
    print(f"seed {first}, in {folder}", flush=True)
    try:
        return run(folder, first, args.hours * 3600, single=args.case is not None)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(folder: Path, first: int, seconds: float, single: bool) -> int:
    """Run cases with the seeds `first`, `first` + 1, ...; return the exit code.

    Args:
        folder: scratch folder.
        first: seed of the first case.
        seconds: how long.
        single: stop after the first case.
    """
    from scripts.faults import children, commands, kills, spoiled

    kinds = {"kill": kills.one, "file": spoiled.one_file, "value": spoiled.one_value}
    commands.write_inputs(folder / "intact")
    intact = spoiled.prepare(folder)
    counts: Counter[tuple[str, str]] = Counter()
    end, number = time.monotonic() + seconds, 0
    while number == 0 or (time.monotonic() < end and not single):
        seed, number = first + number, number + 1
        rng = random.Random(seed)
        kind = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        what, outcome, text = kinds[kind](folder, intact, rng)
        counts[what, outcome] += 1
        if outcome in children.BAD or single:
            print(f"{outcome}: {what}, --case {seed}\n  " + text.strip()[-800:].replace("\n", "\n  "), flush=True)
    return _report(counts)


def _report(counts: "Counter[tuple[str, str]]") -> int:
    from scripts.faults import children

    for what in sorted({what for what, _ in counts}):
        found = ", ".join(
            f"{outcome} {counts[what, outcome]}" for outcome in children.OUTCOMES if counts[what, outcome]
        )
        print(f"  {what}: {found}")
    totals = {
        outcome: sum(count for (_, other), count in counts.items() if other == outcome) for outcome in children.OUTCOMES
    }
    killed = sum(count for (what, _), count in counts.items() if what.startswith("kill"))
    print(f"{killed} kill cases, {sum(counts.values()) - killed} files and values")
    print(", ".join(f"{count} {outcome}" for outcome, count in totals.items()))
    return 1 if any(totals[outcome] for outcome in children.BAD) else 0


if __name__ == "__main__":
    sys.exit(main())
