"""Ctrl-C and SIGTERM end a program with one line and exit code 130 or 143, whenever they come."""

import os
import signal
import subprocess
import sys
import time

import pytest
from children import ALONE, ROOT

COMMANDS = {
    "caspl": ["-m", "trainers", "base2new", "shapes", "1"],
    "train.py": ["train.py", "--trainer", "CoOp"],
    "data.py": ["scripts/data.py", "check", "all"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_early_signal_is_one_line(command, number, tmp_path):
    if command != "caspl" and number == signal.SIGTERM:
        pytest.skip("before a program's first statement, SIGTERM ends it without a line")
    places = ["--data", str(tmp_path), "--output", str(tmp_path / "output")] if command != "train.py" else []
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", *COMMANDS[command], *places],
        cwd=ROOT,
        env=ALONE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    for line in process.stderr:  # wait until it imports NumPy, on the way to torch
        if "numpy" in line:
            break
    os.kill(process.pid, number)
    rest = [line for line in process.stderr.read().splitlines() if not line.startswith("import time:")]
    assert process.wait(timeout=60) == 128 + number
    assert len(rest) == 1 and rest[0].startswith(f"stopped by {number.name}")


def test_signal_during_training_is_one_line(tmp_path):
    places = ["--data", str(tmp_path / "data"), "--output", str(tmp_path / "output")]
    process = subprocess.Popen(
        [sys.executable, *COMMANDS["caspl"], *places, "OPTIM.MAX_EPOCH", "500"],
        cwd=ROOT,
        env=ALONE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    log = tmp_path / "output" / "boosting" / "shapes" / "log.txt"
    end = time.monotonic() + 240
    while not log.is_file() and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert [line[:18] for line in error.splitlines() if line.strip() and "it/s" not in line] == ["stopped by SIGINT:"]
