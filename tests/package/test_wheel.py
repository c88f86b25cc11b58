"""The wheel, installed into a separate environment: every command works from an empty folder."""

import json
import re
from email.parser import HeaderParser
from pathlib import Path
from zipfile import ZipFile

import pytest
from installation import ROOT, Environment, build_wheel, copy_project

from trainers.version import __version__

pytestmark = pytest.mark.slow

EPOCH = ["OPTIM.MAX_EPOCH", "1"]
EPOCHS = [*EPOCH, "--boost", *EPOCH]  # of both phases
NUMBER = r"\d+\.\d\d"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    return build_wheel(copy_project(folder / "project"), folder / "dist")


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    environment = Environment(tmp_path_factory.mktemp("environment") / "venv")
    environment.install(wheel)
    return environment


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(scope="module")
def trained(installed, folder):
    """Return the output of base2new with one epoch per phase."""
    return installed.caspl(folder, "base2new", "shapes", 1, "--host", "coop", *EPOCHS)


def test_wheel_holds_everything_a_command_needs(wheel):
    files = set(ZipFile(wheel).namelist())
    data = [path for part in ("trainers", "datasets", "configs") for path in (ROOT / part).rglob("*") if path.is_file()]
    left_out = (".md", ".pyc")
    expected = {path.relative_to(ROOT) for path in data if path.suffix not in left_out}
    placed = {Path("caspl", *path.parts[1 if path.parts[0] == "trainers" else 0 :]).as_posix() for path in expected}
    assert placed <= files, sorted(placed - files)
    assert {name.split("/")[0] for name in files} == {"caspl", f"caspl-{__version__}.dist-info"}


def test_metadata(wheel):
    with ZipFile(wheel) as archive:
        text = archive.read(f"caspl-{__version__}.dist-info/METADATA").decode()
    metadata = HeaderParser().parsestr(text)
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"] and metadata["Keywords"] and metadata.get_all("Project-URL")
    extras = {"clip", "open-clip", "results", "cluster", "dev"}
    assert extras <= {extra.replace("_", "-") for extra in metadata.get_all("Provides-Extra")}
    links = re.findall(r"\]\(([^)\s]+)\)", metadata.get_payload())
    assert all(link.startswith(("https://", "#")) for link in links), links  # an index has no folders


def test_version_and_module_are_the_same_program(installed, folder):
    assert installed.caspl(folder, "--version") == f"caspl {__version__}\n"
    assert installed.output([installed.python, "-m", "caspl", "--version"], folder) == f"caspl {__version__}\n"
    help_text = installed.caspl(folder, "--help")
    assert installed.output([installed.python, "-m", "caspl", "--help"], folder) == help_text


def test_import_in_a_toolbox_registers_only_caspl(installed, tmp_path):
    for name in ("trainers", "datasets"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OWN = True\n")
    program = (
        "import caspl, json, trainers, datasets\n"
        "from dassl.data.datasets import DATASET_REGISTRY\n"
        "from dassl.engine import TRAINER_REGISTRY\n"
        "assert trainers.OWN and datasets.OWN\n"
        "print(json.dumps([caspl.__version__, TRAINER_REGISTRY.registered_names(), DATASET_REGISTRY.registered_names()]))"
    )
    version, trainers, datasets = json.loads(installed.output([installed.python, "-c", program], tmp_path))
    assert version == __version__
    assert "CasPL_CoOp" in trainers and all(re.fullmatch(r"CasPL([_-]\w+)?", name) for name in trainers)
    assert datasets == []


def test_base2new(trained, folder):
    rows = [re.split(r"  +", line) for line in trained.strip().splitlines()[-4:]]
    boosted = "CLIP with the boosting prompt alone"
    assert [row[0] for row in rows] == ["CLIP, zero-shot", boosted, "CoOp", "CasPL_CoOp"]
    assert all(re.fullmatch(NUMBER, cell.strip()) for row in rows for cell in row[1:])
    assert sorted(path.name for path in folder.iterdir()) == ["data", "output"]


def test_few_shot(installed, trained, folder):
    assert re.search(
        rf"CasPL_CoOp +{NUMBER}", installed.caspl(folder, "few-shot", "shapes", 1, 1, "--host", "coop", *EPOCHS)
    )


def test_cross_dataset(installed, trained, folder):
    words = ["cross-dataset", "shapes", 1, "--host", "coop", "--targets", "shapes_v2", *EPOCHS]
    assert re.search(rf"CasPL_CoOp +{NUMBER} +{NUMBER}", installed.caspl(folder, *words))


def test_reproduce(installed, trained, folder):
    words = ["reproduce", "base2new", "--datasets", "shapes", "--hosts", "coop", "--seeds", 1, *EPOCHS]
    assert re.search(rf"CasPL_CoOp +\| all +\| {NUMBER}", installed.caspl(folder, *words))


def test_boost(installed, trained, folder):
    printed = installed.caspl(folder, "boost", "shapes", "--output", "elsewhere", *EPOCH).splitlines()
    assert Path(folder, printed[-1]).is_file()


def test_train_and_evaluate(installed, trained, folder):
    run = folder / "output/base2new/shapes/CasPL_CoOp/shots_16/seed_1"
    words = ["train", "--root", "data", "--eval-only", "--model-dir", run, "DATASET.SUBSAMPLE_CLASSES", "new"]
    assert "accuracy" in installed.caspl(folder, *words)
    configs = installed.python.parents[1].glob("**/site-packages/caspl/configs")
    configs = next(iter(configs))
    words = ["train", "--root", "data", "--trainer", "CoOp", "--output-dir", "own", *EPOCH, "DATASET.NUM_SHOTS", 1]
    files = {"--dataset-config-file": "datasets/shapes.yaml", "--config-file": "trainers/CoOp/shapes.yaml"}
    words += [word for option, name in files.items() for word in (option, configs / name)]
    assert "accuracy" in installed.caspl(folder, *words)
    assert (folder / "own" / "config.yaml").is_file()


def test_results(installed, trained, folder):
    assert re.search(rf"CasPL_CoOp +\| all +\| {NUMBER}", installed.caspl(folder, "results"))
    installed.caspl(folder, "results", "output", "--plot", "plot.png")
    assert (folder / "plot.png").stat().st_size > 1000


def test_predict_and_report(installed, trained, folder):
    run = folder / "output/base2new/shapes/CasPL_CoOp/shots_16/seed_1"
    picture = next(iter((folder / "data/shapes/test/wavy_star").glob("*.jpg")))
    assert re.search(r"[a-z]+ [a-z]+", installed.caspl(folder, "predict", run, picture))
    installed.caspl(folder, "report", run, "report.html")
    assert "<style>" in (folder / "report.html").read_text()


def test_data(installed, trained, folder):
    assert "shapes: complete" in installed.caspl(folder, "data", "check", "shapes", "--data", "data")
    assert "all files exist already" in installed.caspl(folder, "data", "fetch", "shapes", "--data", "data")


def test_convert(installed, trained, folder):
    boosting = "output/boosting/shapes"
    assert "student: shapes-student" in installed.caspl(folder, "convert", "inspect", boosting)
    published = installed.caspl(folder, "convert", "export", boosting, "published").strip()
    installed.caspl(folder, "convert", "import", published, "imported.safetensors", "--dataset", "Shapes")
    assert "dataset: Shapes" in installed.caspl(folder, "convert", "inspect", "imported.safetensors")


def test_editable_install(tmp_path):
    project = copy_project(tmp_path / "project")
    environment = Environment(tmp_path / "venv")
    environment.install(project, "--editable")
    program = "import caspl, caspl.datasets; print(caspl.__file__); print(caspl.datasets.__file__)"
    printed = environment.output([environment.python, "-c", program], tmp_path)
    assert printed.splitlines() == [str(project / name / "__init__.py") for name in ("trainers", "datasets")]
    assert environment.caspl(tmp_path, "--version") == f"caspl {__version__}\n"
