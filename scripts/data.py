"""`caspl data` in a checkout that is not installed."""

import runpy
import sys
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[1] / "train.py"))  # puts the checkout on the path


def main() -> int:
    """Run the command and return its exit code."""
    from trainers.cli.data import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
