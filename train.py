"""The entry that every CoOp-family user knows: `python train.py --root DATA --trainer CasPL_CoOp ...`; see `--help`."""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))


def _stop(number: int, frame: object) -> None:
    """End at once: until the program handles Ctrl-C, nothing has begun."""
    os.write(2, b"stopped by SIGINT: nothing was started\n")
    os._exit(128 + number)


if __name__ in ("__main__", "<run_path>") and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, _stop)  # importing takes seconds


def main() -> int:
    """Run `caspl train` and return its exit code."""
    from trainers.cli.train import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
