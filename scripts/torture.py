"""Kill runs at random, damage files, and give wrong values, for some hours; count what happened by kind.

    python scripts/torture.py --hours 4 [--seed N] [--folder DIR]

Each case has an oracle: the figures of the intact run, or a rejection (exit code 2, and one error line at the end that names
the file or the key). The exit code is 1 if a result differs, a wrong value or a damaged file passes silently, a file is
executed, a traceback appears, a command hangs, or a rejection is not as expected. `--seed` repeats a run; each bad case is
printed with its seed, and `--case SEED` repeats it alone.
"""

import argparse
import functools
import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")  # children are forked
runpy.run_path(str(Path(__file__).resolve().parents[1] / "train.py"))  # puts the checkout on the path


def main() -> int:
    """Run cases until the time is over; print the counts, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=1 / 60, help="how long (default: one minute)")
    parser.add_argument("--seed", type=int, default=None, help="seed of the first case (default: drawn)")
    parser.add_argument("--case", type=int, default=None, help="run the case of this seed alone")
    parser.add_argument("--folder", type=Path, default=None, help="scratch folder (default: a temporary one)")
    args = parser.parse_args()
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
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
    from scripts.faults import children, commands, spoiled

    groups = _groups()
    commands.write_inputs(folder / "intact")
    intact = spoiled.prepare(folder)
    counts: Counter[tuple[str, str]] = Counter()
    end, number, kills, stopped = time.monotonic() + seconds, 0, 0, list[bool]()
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))  # report what was counted
    while number == 0 or (time.monotonic() < end and not single and not stopped):
        seed, number = first + number, number + 1
        rng = random.Random(seed)
        group = rng.choices(groups, [weight for weight, _ in groups])[0][1]
        found = rng.choice(group)(folder, intact, rng)
        for case in found if isinstance(found, list) else [found]:
            counts[case.kind, case.outcome] += 1
            kills += case.kills
            if case.outcome in children.BAD or single:
                text = case.text.strip()[-1200:].replace("\n", "\n  ")
                print(f"{case.outcome}: {case.kind}, --case {seed}\n  {text}", flush=True)
        if number % 50 == 0:
            print(f"-- {sum(counts.values())} cases, {kills} kills", flush=True)
    return _report(counts, kills)


def _groups() -> list[tuple[int, list[Callable[..., Any]]]]:
    """Return (weight, kinds) pairs; a kind is a function that returns a case, or a list of many quick ones."""
    from scripts.faults import archives, direct, inputs, kills, spoiled, values

    killed = [
        functools.partial(kills.one, name) for name in ("train", "train", "cache", "protocol", "grid", "torchrun")
    ]
    files = [functools.partial(spoiled.one, name) for name in spoiled.TARGETS]
    data = [inputs.classes, inputs.pixels, inputs.orientation]
    data += [functools.partial(inputs.edited, name) for name in inputs.EDITS]
    readers = [functools.partial(direct.files, name) for name in direct.READERS]
    readers += [functools.partial(direct.edits, name) for name in inputs.EDITS]
    readers += [direct.values_of_keys, direct.values_of_keys, direct.values_of_keys]
    hostile = [archives.archive, archives.archive, archives.scripted, inputs.recipe]
    given = [values.one_value, values.one_value, values.one_value, values.one_setting, inputs.other_data]
    return [(20, killed), (1, [kills.launched]), (30, files), (20, data), (15, hostile), (30, given), (30, readers)]


def _report(counts: Counter[tuple[str, str]], kills: int) -> int:
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
    print(f"{kills} kills in {killed} cases; {sum(counts.values()) - killed} files and values")
    print(", ".join(f"{count} {outcome}" for outcome, count in totals.items()))
    return 1 if any(totals[outcome] for outcome in children.BAD) else 0


if __name__ == "__main__":
    sys.exit(main())
