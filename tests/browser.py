"""Headless Chromium for tests of pages, skipped with a message where it is missing."""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def _command(folder: Path, *arguments: str) -> list[str]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine: install Debian's package chromium to test pages")
    return [program, *FLAGS, f"--user-data-dir={folder / 'profile'}", *arguments]


def chromium(folder: Path, *arguments: str, timeout: int = 90) -> str:
    """Run Chromium with a profile in `folder`; return its standard output."""
    done = subprocess.run(_command(folder, *arguments), capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def loaded_page(folder: Path, address: str, budget_ms: int = 2000) -> str:
    """Return a page's HTML after its scripts have run."""
    return chromium(folder, f"--virtual-time-budget={budget_ms}", "--dump-dom", address)


class Page:
    """A page in a running Chromium, driven by its DevTools protocol over two pipes.

    Args:
        sent: file descriptor that commands are written to.
        received: file descriptor that answers are read from.
    """

    def __init__(self, sent: int, received: int):
        self._sent, self._received, self._rest, self._numbers = sent, received, b"", itertools.count(1)
        attached = {"targetId": self._first_page(), "flatten": True}
        self._session: str | None = self._call("Target.attachToTarget", **attached)["sessionId"]

    _session = None

    def _first_page(self, seconds: float = 30) -> str:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for each in self._call("Target.getTargets")["targetInfos"]:
                if each["type"] == "page":
                    return each["targetId"]
            time.sleep(0.1)
        raise AssertionError(f"Chromium opened no page within {seconds} s")

    def call(self, method: str, **parameters: Any) -> dict:
        """Send a command to the page and return its result."""
        return self._call(method, **parameters)

    def _call(self, method: str, **parameters: Any) -> dict:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._sent, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                part = os.read(self._received, 1 << 16)
                assert part, "Chromium has closed its pipe"
                self._rest += part
            text, self._rest = self._rest.split(b"\0", 1)
            answer = json.loads(text)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def value(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> Any:
        """Return the value of a JavaScript expression once it is true."""
        end = time.monotonic() + seconds
        while not (found := self.value(script)):
            assert time.monotonic() < end, (
                f"not true after {seconds} s: {script}; {self.value('document.body.innerText')}"
            )
            time.sleep(0.2)
        return found

    def set_file(self, selector: str, path: Path) -> None:
        """Choose a file in an input of a form."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])


@contextlib.contextmanager
def opened(folder: Path, address: str) -> Iterator[Page]:
    """Open a page in a Chromium that runs while the block does."""
    command = _command(folder, "--remote-debugging-pipe", address)
    (chromium_reads, we_write), (we_read, chromium_writes) = os.pipe(), os.pipe()

    def pass_pipes() -> None:  # Chromium reads from descriptor 3 and writes to 4
        reads, writes = (os.dup(number) for number in (chromium_reads, chromium_writes))
        os.dup2(reads, 3)
        os.dup2(writes, 4)

    process = subprocess.Popen(
        command, preexec_fn=pass_pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(chromium_reads)
    os.close(chromium_writes)
    try:
        yield Page(we_write, we_read)
    finally:
        process.terminate()
        process.wait(20)
        os.close(we_write)
        os.close(we_read)
