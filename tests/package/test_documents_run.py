"""The commands of README and docs/ run: executed with small models and one epoch, or planned where they need data."""

import re
import shutil

import documents
import nbformat
import pytest
import versions
from conftest import ROOT
from documents import PAGES
from nbclient import NotebookClient
from workspace import Workspace

from trainers.__main__ import main
from trainers.experiments import cost

pytestmark = [pytest.mark.slow, versions.exports]  # pages export

EXECUTED = [page for page in PAGES if documents.steps(page)]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
TITLED = dict.fromkeys(c.words for page in PAGES for c in documents.commands(page) if c.title and c.words[0] == "caspl")
PLANNED = [words for words in TITLED if documents.takes(words[1], "--dry-run")]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    made = Workspace(tmp_path_factory.mktemp("manual"))
    made.run([("caspl", "base2new", "shapes", "1")])
    made.take_photographs()
    return made


def test_pages_have_commands_to_execute():
    assert {page.name for page in EXECUTED} >= {"README.md", "quickstart.md", "photographs.md", "deployment.md"}


@pytest.mark.parametrize("page", EXECUTED, ids=lambda page: page.stem)
def test_commands_of_page_run(page, workspace):
    lines = [step.words for step in documents.steps(page)]
    printed = workspace.run(lines)
    assert printed.count("$ ") >= len(lines)


@pytest.mark.parametrize("words", PLANNED, ids=" ".join)
def test_commands_that_need_data_are_planned(words, monkeypatch, tmp_path, capsys):
    for name in ("costs", "phase_1"):  # counting the operations takes minutes; `caspl cost` is executed above
        monkeypatch.setattr(cost, name, lambda *_: ())
    if "--model-dir" in words:
        pytest.skip("evaluates a run that a test does not have: test_documents.py parses it")
    line = [str(tmp_path) if word == "DATA" else word for word in words[1:] if word != "--dry-run"]
    assert main([*line, "--output", str(tmp_path / "output"), "--dry-run"]) == 0
    assert re.search(r"\d+ jobs: 0 finished, 0 blocked, [1-9]\d* to run", capsys.readouterr().out)
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, workspace, monkeypatch, tmp_path):
    for name, value in workspace.environment.items():
        monkeypatch.setenv(name, value)
    shutil.copytree(workspace.folder / "data", tmp_path / "data")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
