"""Headless Chromium for tests of pages, skipped with a message where it is missing."""

import shutil
import subprocess
from pathlib import Path

import pytest

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-sync",
]
FLAGS += ["--disable-component-update", "--disable-quic", "--hide-scrollbars"]


def chromium(folder: Path, *arguments: str, timeout: int = 90) -> str:
    """Run Chromium with a profile in `folder`; return its standard output."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine: install Debian's package chromium to test pages")
    command = [program, *FLAGS, f"--user-data-dir={folder / 'profile'}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def loaded_page(folder: Path, address: str, budget_ms: int = 2000) -> str:
    """Return a page's HTML after its scripts have run."""
    return chromium(folder, f"--virtual-time-budget={budget_ms}", "--dump-dom", address)


def screenshot(folder: Path, address: str, target: Path, width: int, height: int, dark: bool = False) -> Path:
    """Take a picture of a page."""
    more = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []
    chromium(folder, *more, f"--window-size={width},{height}", f"--screenshot={target}", address)
    return target
