"""What every test needs: the repository on the path, Dassl or its substitute, `--golden`."""

import logging
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]


def pytest_configure(config):
    """Make `dassl`, `torchvision` and the datasets importable before any test module is, as the programs do.

    Only tests marked `gpu` see a GPU.
    """
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import trainers

    trainers.activate()
    from trainers.experiments.places import load_datasets

    load_datasets()


@pytest.fixture(autouse=True)
def log_level():
    """Log information in each test, even after a program that showed only warnings."""
    logging.getLogger("trainers").setLevel(logging.INFO)


def pytest_addoption(parser):
    """`--golden DIR`: a folder of parity fixtures to run in place of the copy in tests/golden/parity."""
    parser.addoption("--golden", type=Path, default=ROOT / "tests" / "golden" / "parity", metavar="DIR")


def pytest_generate_tests(metafunc):
    """One test for each fixture file in the folder."""
    if "fixture_file" in metafunc.fixturenames:
        files = sorted(metafunc.config.getoption("golden").glob("*.npz"))
        if not files:
            raise pytest.UsageError(
                f"no *.npz in {metafunc.config.getoption('golden')}: --golden names the folder of fixtures"
            )
        metafunc.parametrize("fixture_file", files, ids=[path.stem for path in files])
