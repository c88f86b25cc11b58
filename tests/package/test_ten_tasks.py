"""Ten tasks of a newcomer: each writes its files into a copy of the project and runs it.

The first line of a test lists the files that the task touches.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import documents
import pytest
import torch
from children import ALONE
from installation import copy_project
from safetensors import safe_open
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.slow

EPOCH = ("OPTIM.MAX_EPOCH", "1")
NUMBER = r"\d+\.\d\d"


class Project:
    """A copy of the project with its data and output folders next to it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.data, self.output = folder.parent / "data", folder.parent / "output"

    def caspl(self, *words, code=0):
        """Run a command and return what it prints."""
        command = [sys.executable, "-m", "trainers", *map(str, words)]
        environment = {**ALONE, "PYTHONPATH": str(self.folder)}
        done = subprocess.run(command, cwd=self.folder.parent, env=environment, capture_output=True, text=True)
        assert done.returncode == code, f"{words}:\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    def run(self, command, *words):
        """Run a protocol or phase 1 with one epoch per phase."""
        epochs = EPOCH if command == "boost" else (*EPOCH, "--boost", *EPOCH)
        return self.caspl(command, "--data", self.data, "--output", self.output, *words, *epochs)

    def write(self, path, text):
        """Write a new file; its folder is created."""
        path = self.folder / path
        assert not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def edit(self, path, *changes):
        """Replace (old, new) pairs in a file; each old text occurs once."""
        text = (self.folder / path).read_text()
        for old, new in changes:
            assert text.count(old) == 1, (path, old)
            text = text.replace(old, new)
        (self.folder / path).write_text(text)

    def result(self, *parts):
        """Return a run's `result.json`."""
        return json.loads(self.output.joinpath(*parts, "result.json").read_text())

    def boosting(self):
        """Return the metadata of the boosting prompt of shapes."""
        with safe_open(self.output / "boosting/shapes/boosting.safetensors", framework="pt") as opened:
            return {key: json.loads(value) for key, value in opened.metadata().items()}


@pytest.fixture(scope="module")
def boosted(tmp_path_factory):
    """A project with rendered data and a boosting prompt of one epoch."""
    project = Project(copy_project(tmp_path_factory.mktemp("ten") / "project"))
    project.run("boost", "shapes")
    return project


@pytest.fixture
def project(boosted, tmp_path):
    """A fresh copy of the project, the data and the boosting prompt."""
    copy = Project(copy_project(tmp_path / "project"))
    shutil.copytree(boosted.data, copy.data)
    shutil.copytree(boosted.output, copy.output)
    return copy


@pytest.fixture
def unboosted(project):
    """A project with rendered data and without a boosting prompt."""
    shutil.rmtree(project.output)
    return project


def test_host(project):
    """trainers/hosts/halfway.py, configs/trainers/Halfway/shapes.yaml"""
    project.write(
        "trainers/hosts/halfway.py",
        "from dassl.engine import TRAINER_REGISTRY\n"
        "from .coop import CoOp\n\n"
        "@TRAINER_REGISTRY.register()\n"
        "class Halfway(CoOp):\n"
        '    """CoOp with its context on both sides of the class name."""\n\n'
        '    node = "HALFWAY"\n',
    )
    project.write(
        "configs/trainers/Halfway/shapes.yaml",
        '_BASE_: "../../base/shapes.yaml"\n'
        "OPTIM:\n  LR: 0.002\n"
        'TRAINER:\n  HALFWAY:\n    N_CTX: 4\n    PREC: "fp32"\n    CLASS_TOKEN_POSITION: "middle"\n',
    )
    printed = project.run("base2new", "shapes", 1, "--host", "halfway")
    assert re.search(rf"^Halfway +{NUMBER}", printed, re.M) and re.search(rf"^CasPL_Halfway +{NUMBER}", printed, re.M)
    project.run("few-shot", "shapes", 1, 1, "--host", "halfway")
    project.run("cross-dataset", "shapes", 1, "--host", "halfway", "--targets", "shapes_v2")
    project.run("reproduce", "base2new", "--datasets", "shapes", "--hosts", "halfway", "--seeds", 1)
    tables = project.caspl("results", project.output)
    assert tables.count("CasPL_Halfway") >= 3 and re.search(r"\| Halfway ", tables)


def test_dataset(unboosted):
    """datasets/readers/signs.py, configs/datasets/signs.yaml"""
    unboosted.write(
        "datasets/readers/signs.py",
        "from dassl.data.datasets import DATASET_REGISTRY\n"
        "from ..shapes.dataset import RenderedDataset\n\n"
        "@DATASET_REGISTRY.register()\n"
        "class Signs(RenderedDataset):\n"
        '    """Four signs."""\n\n'
        '    dataset_dir = "signs"\n'
        "    classes = {\n"
        "        f'{colour} {shape}': (['plain'], [shape], [colour])\n"
        "        for shape in ('circle', 'star') for colour in ('blue', 'red')\n"
        "    }\n"
        "    sizes = {'train': 16, 'val': 4, 'test': 8}\n"
        "    seed = 7\n",
    )
    unboosted.write("configs/datasets/signs.yaml", 'DATASET:\n  NAME: "Signs"\n')
    words = ("--host", "coop", "--shots", 4)
    recipe = ("MODEL.BACKBONE.NAME", "shapes-student", "TRAINER.CASPL.TEACHER.BACKBONE", "shapes-teacher")
    recipe += ("INPUT.SIZE", "(48,48)", "TRAINER.CASPL.DEPTH_TEXT", 2, "TRAINER.CASPL.DEPTH_VISION", 3)
    recipe += ("TRAINER.CASPL.PREC", "fp32", "DATALOADER.NUM_WORKERS", 0)
    unboosted.run("boost", "signs", *recipe)
    assert "signs: complete" in unboosted.caspl("data", "check", "signs", "--data", unboosted.data)
    recipe += ("TRAINER.COOP.PREC", "fp32")
    assert re.search(rf"CasPL_CoOp +{NUMBER}", unboosted.run("base2new", "signs", 1, *words, *recipe))


def test_metric(project):
    """trainers/metrics/confidence.py"""
    path = "trainers/metrics/confidence.py"
    project.write(path, documents.example("extend.md", path))
    project.run("few-shot", "shapes", 1, 1, "--host", "coop")
    found = project.result("few_shot/shapes/CasPL_CoOp/shots_1/seed_1")
    value = found["evaluations"]["all"]["confidence"]
    assert 100 / 36 < value <= 100
    assert f"{value:.2f}" in project.caspl("results", project.output, "--metrics", "confidence")


def test_protocol(project):
    """trainers/experiments/protocols.py (one entry)"""
    entry = (
        "        Protocol(\n"
        '            name="all_to_new",\n'
        '            title="Training on all classes, test on the new ones",\n'
        '            summary="both phases, and the accuracy on new classes",\n'
        "            trained_on=(),\n"
        '            tests={"all": (), "new": ("DATASET.SUBSAMPLE_CLASSES", "new")},\n'
        '            columns=(Column("new", "new", ("new",)),),\n'
        "        ),\n"
    )
    project.edit(
        "trainers/experiments/protocols.py",
        (
            '    for protocol in (\n        Protocol(\n            name="base2new"',
            f'    for protocol in (\n{entry}        Protocol(\n            name="base2new"',
        ),
    )
    assert "all-to-new" in project.caspl("--help")
    assert re.search(rf"CasPL_CoOp +{NUMBER}", project.run("all-to-new", "shapes", 1, "--host", "coop", "--shots", 1))
    assert 0 < project.result("all_to_new/shapes/CasPL_CoOp/shots_1/seed_1")["new"] <= 100
    assert "Training on all classes" in project.caspl("results", project.output)


def test_teacher(unboosted):
    """trainers/method/teachers/colour.py (one class)"""
    path = "trainers/method/teachers/colour.py"
    unboosted.write(path, documents.example("extend.md", path))
    unboosted.run("boost", "shapes", "TRAINER.CASPL.TEACHER.BACKBONE", "colour:any")
    assert unboosted.boosting()["teacher"] == "colour:any"


def test_precision(project):
    """trainers/engine/precision.py (its name and its dtypes)"""
    project.edit(
        "trainers/engine/precision.py",
        ('NAMES = ("fp32", ', 'NAMES = ("fp32", "fp64", '),
        (
            "    half = torch.bfloat16 if",
            '    if name == "fp64":\n        return Precision("fp64", torch.float64, torch.float64)\n'
            "    half = torch.bfloat16 if",
        ),
    )
    project.run("few-shot", "shapes", 1, 1, "--host", "coop", "TRAINER.COOP.PREC", "fp64")
    learned = project.output / "few_shot/shapes/CasPL_CoOp/shots_1/seed_1/prompt_learner/model.pth.tar-1"
    assert torch.load(learned, weights_only=True)["state_dict"]["ctx"].dtype == torch.float64


def test_prompt_order(unboosted):
    """trainers/engine/symbols.py (its name and its arrangement)"""
    unboosted.edit(
        "trainers/engine/symbols.py",
        ('ORDERS = ("boosting_first", "host_first")', 'ORDERS = ("boosting_first", "host_first", "boosting_last")'),
        (
            '    if order == "host_first":\n',
            '    if order == "boosting_last":\n        return (*text.head, *text.tail[:-1], *boosting, text.tail[-1])\n'
            '    if order == "host_first":\n',
        ),
    )
    order = ("TRAINER.CASPL.TEXT_ORDER", "boosting_last")
    unboosted.run("boost", "shapes", *order)
    assert unboosted.boosting()["order"] == "boosting_last"
    assert re.search(rf"CasPL_CoOp +{NUMBER}", unboosted.run("few-shot", "shapes", 1, 1, "--host", "coop", *order))


def test_phase_1_loss(unboosted):
    """trainers/method/losses.py (a function and its entry)"""
    unboosted.edit(
        "trainers/method/losses.py",
        (
            'LOSSES: dict[str, Loss] = {"kl": kl_divergence}',
            "def squared(student, teacher, temperature):\n"
            "    return F.mse_loss(student.softmax(dim=1), teacher.softmax(dim=1))\n\n\n"
            'LOSSES: dict[str, Loss] = {"kl": kl_divergence, "squared": squared}',
        ),
    )
    unboosted.run("boost", "shapes", "TRAINER.CASPL.LOSS", "squared")
    assert "squared" in (unboosted.output / "boosting/shapes/config.yaml").read_text()


def test_clip_layout(project):
    """trainers/backbones/files.py (one conversion)"""
    state = torch.load(project.folder / "trainers/backbones/weights/shapes-student.pt", weights_only=True)
    state = state.get("state_dict", state)
    weights = project.folder.parent / "towers.safetensors"
    save_file({f"towers.{key}": value.contiguous() for key, value in state.items()}, weights)
    project.edit(
        "trainers/backbones/files.py",
        (
            "        state = {key: opened.get_tensor(key) for key in opened.keys()}",
            '        state = {key.removeprefix("towers."): opened.get_tensor(key) for key in opened.keys()}',
        ),
    )
    printed = project.run(
        "few-shot", "shapes", 1, 1, "--host", "coop", "--output", "layout", "MODEL.BACKBONE.NAME", weights
    )
    assert re.search(rf"CasPL_CoOp +{NUMBER}", printed)


def test_field_of_the_prompt_file(project):
    """trainers/method/prompt_file.py (one field of BoostingInfo)"""
    old = project.output / "boosting/shapes/boosting.safetensors"
    tensors = load_file(old)
    project.edit(
        "trainers/method/prompt_file.py",
        ('    identity: str = ""\n', '    identity: str = ""\n    remark: str = "none"\n'),
    )
    assert "remark: none" in project.caspl("convert", "inspect", old)  # a file without the field stays readable
    project.run("boost", "shapes", "--output", "new")
    assert "remark" not in project.boosting()
    project.output = project.folder.parent / "new"
    assert project.boosting()["remark"] == "none" and load_file(old).keys() == tensors.keys()
