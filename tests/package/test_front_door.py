"""README, citation, workflow and pre-commit agree with the package."""

import csv
import re
import runpy
from pathlib import Path

import setuptools
import yaml
from conftest import ROOT

from trainers.version import __version__

README = (ROOT / "README.md").read_text()
PROJECT = (ROOT / "pyproject.toml").read_text()
PINS = dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "requirements.txt").read_text(), re.M))


def test_readme_is_short_and_in_a_newcomers_order():
    assert len(README.splitlines()) <= 150
    wanted = ["Try it", "Your own images", "Add it to your toolbox", "What is measured", "More", "Citation"]
    assert re.findall(r"^## (.+)$", README, re.M) == wanted
    assert README.index("**What has never been run:**") > README.index("## What is measured")


def test_readme_links_work_on_a_package_index():
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    assert links and all(link.startswith(("https://", "#")) for link in links)


def test_badges_are_true():
    versions = re.findall(r"Python :: 3\.(\d+)", PROJECT)
    assert f"badge/Python-3.{versions[0]}%20to%203.{versions[-1]}-" in README
    oldest = re.search(r'"torch>=([\d.]+)', PROJECT).group(1)
    assert f"badge/PyTorch-{oldest}%20or%20newer-" in README
    assert "badge/licence-Apache--2.0-" in README and 'license = "Apache-2.0"' in PROJECT
    assert len(re.findall(r"img\.shields\.io", README)) == 4


def test_setup_lists_every_file_of_the_package_that_is_not_python(monkeypatch):
    given = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    listed = {
        path
        for package, patterns in given["package_data"].items()
        for pattern in patterns
        for path in folder_of(package, given["package_dir"]).glob(pattern)
    }
    files = (path for part in ("trainers", "datasets", "configs") for path in Path(part).rglob("*") if path.is_file())
    assert {path for path in files if path.suffix not in (".py", ".pyc", ".md")} == listed


def folder_of(package, folders):
    """Return a package's folder, of setuptools' mapping from packages to folders."""
    if package in folders:
        return Path(folders[package])
    parent, _, name = package.rpartition(".")
    return folder_of(parent, folders) / name


def test_figures_are_those_of_the_files():
    with open(ROOT / "trainers" / "results" / "paper" / "base2new.csv", newline="") as file:
        paper = {row["method"]: row for row in csv.DictReader(file) if row["dataset"] == "Average"}
    lines = re.findall(r"^\| (\w+)[^|]* \|(.*\d\d\.\d\d.*)\|$", README, re.M)
    rows = [(method, re.findall(r"\d\d\.\d\d", figures)) for method, figures in lines]
    assert len(rows) == 5
    for method, figures in rows:
        names = [name for name in (method, f"CasPL_{method}") if name in paper]
        assert figures == [paper[name][column] for name in names for column in ("base", "new", "hm")], method
    fixtures = list((ROOT / "tests" / "golden" / "parity").glob("*.npz"))
    assert f"in {len(fixtures)} recorded fixtures" in " ".join(README.split())


def test_citation_and_changelog_have_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert f"## {__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_pre_commit_uses_the_pinned_versions():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    pinned = [package for hook in hooks for package in hook.get("additional_dependencies", [])]
    assert pinned and all(package == f"ruff=={PINS['ruff']}" for package in pinned)
    assert [hook["name"] for hook in hooks][:3] == re.findall(r'^step "(\w+)"', (ROOT / ".ci/run").read_text(), re.M)[
        :3
    ]


def test_workflow_runs_all_checks_on_both_ends_of_pytorch():
    job = yaml.safe_load((ROOT / ".github/workflows/checks.yml").read_text())["jobs"]["checks"]
    assert [row["torch"] for row in job["strategy"]["matrix"]["include"]] == ["oldest", "newest"]
    assert "bash .ci/run" in job["steps"][-1]["run"]
    ends = (ROOT / "scripts" / "compatibility.sh").read_text()
    assert "oldest)" in ends and "newest)" in ends


def test_every_dependency_is_described():
    described = (ROOT / "docs" / "dependencies.md").read_text()
    names = set(re.findall(r'^    "([\w-]+)', PROJECT.split("dependencies = [")[1].split("]")[0], re.M))
    extras = PROJECT.split("[project.optional-dependencies]")[1].split("\n[")[0]
    names |= set(re.findall(r'"([a-z][\w-]+)', extras)) - {"caspl"}
    assert len(names) > 20
    assert not [name for name in names if not re.search(rf"\b{name}\b", described)]
