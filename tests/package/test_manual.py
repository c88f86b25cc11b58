"""The manual: its generated pages are complete, and none of them is a file in the repository."""

import pytest
from installation import ROOT

import trainers.hosts
from scripts import manual
from trainers.config import FIELDS


@pytest.fixture(scope="module")
def pages():
    return dict(manual.pages())


def test_configuration_reference_has_every_key(pages):
    missing = [key for key in FIELDS if f"| `{key}` |" not in pages[manual.CONFIGURATION]]
    assert not missing


def test_configuration_reference_has_type_range_default_meaning_and_phase(pages):
    lines = pages[manual.CONFIGURATION].splitlines()
    lr = next(line for line in lines if line.startswith("| `OPTIM.LR` |"))
    assert lr == "| `OPTIM.LR` | float | above 0 and at most 1000 | `0.0003` | learning rate | 1, 2 |"
    order = next(line for line in lines if line.startswith("| `TRAINER.CASPL.TEXT_ORDER` |"))
    assert "one of 'boosting_first', 'host_first'" in order
    assert next(line for line in lines if line.startswith("| `TRAINER.CASPL.LOSS` |")).endswith("| 1 |")
    assert next(line for line in lines if line.startswith("| `TRAINER.COOP.CSC` |")).endswith("| 2 |")


def test_api_reference_has_every_module(pages):
    packages = {path.parent for path in (ROOT / "trainers").rglob("__init__.py")} - {ROOT / "trainers"}
    packages -= {ROOT / "trainers" / "cli", ROOT / "trainers" / "deploy" / "report"}  # commands, and a page's parts
    folders = {ROOT / folder for _, _, folder in manual.PAGES.values()}
    assert packages <= folders
    for package in packages:
        for path in package.glob("[a-z]*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            assert any(f"::: {name}\n" in page for page in pages.values()), name


def test_public_names_are_documented(pages):
    for name in trainers.__all__:
        assert name == "__version__" or f"caspl.{name}" in manual.PUBLIC


def test_generated_pages_are_not_in_the_repository(pages):
    assert not [name for name in pages if (ROOT / "docs" / name).exists()]
