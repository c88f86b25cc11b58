"""The engine against the plain definition: time, operations and memory; see `--help`."""

import runpy
import sys
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[1] / "train.py"))  # puts the checkout on the path


def main() -> None:
    """Run the program."""
    from scripts.benchmark.program import main

    main()


if __name__ == "__main__":
    sys.exit(main())
