"""The entry that every CoOp-family user knows: `python train.py --root DATA --trainer CasPL_CoOp ...`; see `--help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))


def main() -> int:
    """Run `caspl train` and return its exit code."""
    from trainers.cli.train import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
