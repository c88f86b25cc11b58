"""Building this project's wheel and installing it into a separate environment, for tests."""

import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("trainers", "datasets", "configs", "third_party", "pyproject.toml", "setup.py", "README.md", "LICENSE")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
OFFLINE = ["--no-deps", "--no-index", "--no-build-isolation"]  # options of pip


class Environment:
    """A virtual environment that also has the packages of the running Python, except `caspl`.

    Args:
        folder: where it is, or is created.

    Attributes:
        python: its interpreter.
        programs: the folder of its console commands.
    """

    def __init__(self, folder: Path):
        if not (folder / "pyvenv.cfg").is_file():
            venv.EnvBuilder().create(folder)
        self.programs = folder / ("Scripts" if os.name == "nt" else "bin")
        self.python = self.programs / "python"
        where = self.output([self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
        shared = [path for path in {*site.getsitepackages(), *sys.path} if Path(path).name.endswith("-packages")]
        Path(where, "shared.pth").write_text("\n".join(sorted(shared)))

    def run(self, command: list, folder: Path | None = None) -> subprocess.CompletedProcess:
        """Run a command of this environment in `folder`, on one CPU thread, without the checkout on the path."""
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        words = list(map(str, command))
        return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8")

    def output(self, command: list, folder: Path | None = None) -> str:
        """Return what a command prints; fail the test if its exit code is not 0."""
        done = self.run(command, folder)
        assert done.returncode == 0, f"{command}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def install(self, what: Path | str, *options: str) -> None:
        """Install a wheel or a folder, without its dependencies."""
        command = [self.python, *PIP[1:], "install", *OFFLINE]
        self.output([*command, *options, what])

    def caspl(self, folder: Path, *words) -> str:
        """Return what `caspl <words>` prints in `folder`."""
        return self.output([self.programs / "caspl", *words], folder)


def copy_project(folder: Path) -> Path:
    """Copy what a wheel is built from, without caches, as a clean clone has it."""
    skipped = shutil.ignore_patterns("__pycache__", "*.pyc", ".*_cache")
    folder.mkdir(parents=True)
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=skipped)
        else:
            shutil.copy(ROOT / part, folder)
    return folder


def build_wheel(project: Path, folder: Path) -> Path:
    """Build a project's wheel in `folder` and return its path."""
    command = [*PIP, "wheel", *OFFLINE, "-w", folder, project]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("caspl-*.whl"))
