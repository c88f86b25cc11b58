"""The commands of README and docs/ run, with small models and one epoch; test_documents_titled.py has those with a title."""

import shutil

import documents
import nbformat
import pytest
import versions
from conftest import ROOT
from documents import PAGES
from nbclient import NotebookClient
from workspace import Workspace

pytestmark = [pytest.mark.slow, versions.exports]  # pages export

EXECUTED = [page for page in PAGES if documents.steps(page)]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


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


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, workspace, monkeypatch, tmp_path):
    for name, value in workspace.environment.items():
        monkeypatch.setenv(name, value)
    shutil.copytree(workspace.folder / "data", tmp_path / "data")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
