"""The titled commands of README and docs/: planned where they need weights or data, else run in miniature."""

import glob
import re
import shutil
import sys

import documents
import pytest
import versions
from conftest import ROOT
from datasets_helpers import golden_folder, kind_of
from hub_server import served as served_hub
from installation import OFFLINE, Environment, copy_project
from miniature import Toolbox, in_clone, output, served_page
from mirror import publish
from mirror import served as served_mirror
from titled import TITLED, planned, titled
from workspace import EPOCH, PHASE_1, SMALL, Workspace

from datasets import hub
from trainers.__main__ import main
from trainers.experiments import cost

pytestmark = pytest.mark.slow

PETS = ("caspl", "base2new", "oxford_pets", "1", "--data", "DATA", "--host", "coop", "--baseline", *SMALL, *PHASE_1)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with a miniature OxfordPets, and finished runs of both phases."""
    made = Workspace(tmp_path_factory.mktemp("titled"))
    golden_folder(made.folder / "DATA", "oxford_pets")
    shutil.copy(next((made.folder / "DATA" / "oxford_pets" / "images").iterdir()), made.folder / "picture.jpg")
    made.run([PETS])
    return made


def on_pets(commands):
    """Replace the pages' run of the quick start by the run of the miniature."""
    pairs = {"/shapes/": "/oxford_pets/", "CasPL_PromptSRC": "CasPL_CoOp"}
    for old, new in pairs.items():
        commands = [tuple(word.replace(old, new) for word in words) for words in commands]
    return commands


@versions.counts_operations
@pytest.mark.parametrize("words", filter(planned, TITLED), ids=" ".join)
def test_commands_that_need_data_are_planned(words, monkeypatch, tmp_path, capsys):
    for name in ("costs", "phase_1"):  # counting the operations takes minutes; pages execute `caspl cost`
        monkeypatch.setattr(cost, name, lambda *_: ())
    line = [str(tmp_path) if word == "DATA" else word for word in words[1:] if word != "--dry-run"]
    assert main([*line, "--output", str(tmp_path / "output"), "--dry-run"]) == 0
    assert re.search(r"\d+ jobs: 0 finished, 0 blocked, [1-9]\d* to run", capsys.readouterr().out)
    assert not (tmp_path / "output").exists()


def test_run_in_miniature_is_evaluated_again(workspace):
    assert "CasPL_CoOp on the 1 new classes of OxfordPets" in workspace.run(titled("caspl train --eval-only"))


def test_tables_and_plots_of_runs(workspace):
    printed = workspace.run(titled("caspl results"))
    assert "by TRAINER.CASPL.TEMPERATURE" in printed and ",CasPL_CoOp," in printed
    assert (workspace.folder / "plot.png").stat().st_size > 1000


def test_run_and_prompt_are_pushed_and_loaded(workspace):
    with served_hub() as (state, address):
        account = {"HF_ENDPOINT": address, "HF_TOKEN": "hf_token", "HF_HUB_DISABLE_XET": "1"}
        account["HF_HOME"] = str(workspace.folder / "hub")
        commands = [*on_pets(titled("caspl push")), *titled("caspl predict hf-hub:")]
        assert "picture.jpg" in workspace.run(commands, **account)
    assert set(state.files) == {"user/name", "user/prompt"} and state.private["user/name"]


def test_page_is_served_until_ctrl_c(workspace):
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'caspl[demo]'")
    for words in on_pets(titled("caspl demo")):
        assert "Most likely classes" in served_page(workspace, words[1:])


def test_miniature_data_are_checked(workspace, capsys):
    for words in titled("caspl data check"):
        line = [str(workspace.folder / "DATA") if word in ("DATA", "DIR") else word for word in words]
        assert main(line[1:]) == 1, "the miniature has fewer images than the published dataset"
        report = capsys.readouterr().out
        assert "oxford_pets: INCOMPLETE" in report and "train: 17 found" in report and "imagenet" in report


def test_miniature_data_are_fetched_from_a_local_server(tmp_path, monkeypatch, capsys):
    kind = kind_of("OxfordPets")
    monkeypatch.setattr(kind, "facts", kind.facts._replace(sha256=""))
    with served_mirror() as (server, address):
        monkeypatch.setattr(hub, "ENDPOINT", address)
        _, data = publish(server, tmp_path, "OxfordPets")
        for words in titled("caspl data fetch"):
            line = [str(data) if word in ("DATA", "DIR") else word for word in words]
            assert main(line[1:]) == 1, "the miniature has fewer images than the published dataset"
            assert "oxford_pets: INCOMPLETE" in capsys.readouterr().out
    assert (data / "oxford_pets" / "split_zhou_OxfordPets.json").is_file()


def test_torchrun_trains_in_two_processes(workspace):
    for words in titled("torchrun"):
        shutil.rmtree(workspace.folder / words[words.index("--output-dir") + 1])
        processes = words.index("--nproc_per_node") + 1
        words = [*words[:processes], "2", *words[processes + 1 :]]
        in_clone(workspace, words, *SMALL, *PHASE_1, *EPOCH)
        folder = workspace.folder / words[words.index("--output-dir") + 1]
        assert ", 2 processes" in (folder / "log.txt").read_text()
        assert (folder / "boosting.safetensors").is_file()


@pytest.mark.parametrize("page", ["README.md", "docs/toolbox.md"])
def test_toolbox_trains_and_evaluates(page, workspace, tmp_path):
    toolbox = Toolbox(tmp_path / "toolbox", workspace)
    (block,) = [block.text for block in documents.blocks(ROOT / page) if block.title == "train.py"]
    toolbox.add_lines(block)
    known = titled("python train.py")
    commands = [command.words for command in documents.commands(ROOT / page) if command.words in known]
    files = ["--dataset-config-file", "configs/datasets/oxford_pets.yaml"]
    files += ["--config-file", "configs/trainers/CoOp/vit_b16_ep50.yaml"]
    usual = ["--root", "DATA", "--output-dir", "output/run", *files]  # README leaves them to its reader
    printed = [toolbox.train(words, *(() if "--root" in words else (usual, EPOCH))) for words in commands]
    assert "Wrote the boosting prompt to output/boosting/oxford_pets" in printed[0]
    assert all("Cascaded with" in each and "accuracy: " in each for each in printed[1:])


@versions.exports
def test_benchmark_of_small_sizes(workspace):
    for words in titled("python scripts/bench.py"):
        sizes = ["--sizes", "small"] if "--deploy" in words else ["--size", "small", "--works", "CasPL_CoOp"]
        table = in_clone(workspace, words, *sizes, "--classes", "5", "--rounds", "1", "--engine-only")
        assert re.search(r"^\| (CasPL, small|CasPL_CoOp) +\|.* [\d.]+ +\|", table, re.M)


def test_small_clip_is_trained_for_some_steps(workspace):
    for words in titled("python -m scripts.shapes.train_clips"):
        assert "shapes-student-tokens.pt" in in_clone(workspace, words, "--steps", "4")


def test_project_is_installed(tmp_path):
    project, environment = copy_project(tmp_path / "project"), Environment(tmp_path / "venv")
    for words in titled("pip install"):
        environment.output([environment.python, "-m", *words, *OFFLINE], project)
        assert environment.caspl(tmp_path, "--version").startswith("caspl ")


def test_release_is_built_and_installed(tmp_path):
    project = copy_project(tmp_path / "project")
    (wheel,), (venv,) = titled("python -m pip wheel"), titled("python -m venv")
    install, caspl = titled("/tmp/try/bin/")
    output([sys.executable, *wheel[1:], *OFFLINE], project)
    output([sys.executable, *venv[1:-1], tmp_path / "try"], project)
    environment = Environment(tmp_path / "try")
    (built,) = glob.glob(install[-1], root_dir=project)
    environment.output([environment.programs / "pip", "install", built, *OFFLINE], project)
    help_text = environment.caspl(tmp_path, caspl[1], "--help")  # test_wheel.py trains
    assert "usage: caspl base2new" in help_text


def test_script_runs_a_test(monkeypatch):
    monkeypatch.setenv("PYTHON", sys.executable)
    for words in titled("bash scripts/test.sh"):
        printed = output([*words, "-q", "-n", "0", "tests/package/test_front_door.py"], ROOT)
        assert re.search(r"\d+ passed", printed)
