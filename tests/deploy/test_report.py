"""The report of a run: what it shows, its size, and that it works in a browser without any network."""

import json
import re
import shutil

import pytest
import torch
import toy
from browser import loaded_page, opened
from PIL import Image

from trainers.__main__ import main as caspl
from trainers.cli import train
from trainers.deploy.report.collect import Classified, Evaluation
from trainers.training.records import EVALUATIONS, TopClasses, append_epoch, write_evaluation


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page about a run of both phases on the toys, below a protocol's folder with its siblings' results."""
    root = tmp_path_factory.mktemp("report")
    toy.save_clip(root / "student.pt")
    toy.save_clip(root / "teacher.pt", toy.TEACHER, seed=4)
    train.run(toy.command(root, "CasPL", root / "boost"))
    dataset = root / "base2new" / "toy"
    run = dataset / "CasPL_CoOp" / "shots_16" / "seed_1"
    train.run(toy.command(root, "CasPL_CoOp", run, TRAINER__CASPL__CHECKPOINT=root / "boost", OPTIM__MAX_EPOCH=3))
    for name, folder in (("ZeroshotCLIP", dataset / "ZeroshotCLIP"), ("CasPL_CoOp", run)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text(json.dumps({"base": 50.0 + len(name), "new": 40.0, "hm": 44.44}))
    assert caspl(["report", str(run), str(root / "page.html")]) == 0
    return root / "page.html"


def test_page_shows_figures_classes_mistakes_and_provenance(page):
    text = page.read_text()
    assert page.stat().st_size < 5_000_000
    assert "CLIP, zero-shot" in text and "62.00" in text and "44.44" in text
    assert all(name.replace("_", " ") in text or name in text for name in toy.NAMES)
    assert "data:image/jpeg;base64," in text and "Most confident mistakes" in text
    assert "Phase 1 (boosting) saw 24 images of Toy without any label, and 6 class names." in text
    assert "Phase 2 (adapting) saw 24 images of Toy with their labels" in text
    assert "boosting token 1" in text and "learned token 4" in text and "OPTIM.MAX_EPOCH" in text
    assert "<polyline" in text and "3 epochs" in text
    assert "18 images, in %: accuracy" in text and "top-5 accuracy" in text
    assert "<td>OPTIM.WEIGHT_DECAY</td><td>0.0005</td>" in text


def test_page_needs_no_network(page):
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page.read_text())
    assert "http://" not in page.read_text() and "@import" not in page.read_text()


def test_columns_sort_in_a_browser(page, tmp_path):
    script = """<script>addEventListener("load", () => {
      document.querySelector("table.sortable").querySelectorAll("th")[2].click();
      const cells = [...document.querySelectorAll("table.sortable")[0].tBodies[0].rows].map((r) => r.cells[2].textContent);
      document.body.dataset.sorted = cells.join(" ");
    });</script></body>"""
    sorting = tmp_path / "sorting.html"
    sorting.write_text(page.read_text().replace("</body>", script))
    found = re.search(r'data-sorted="([^"]*)"', loaded_page(tmp_path, sorting.as_uri()))
    values = [float(value) for value in found[1].split()]
    assert len(values) == 6 and values == sorted(values)


def test_page_fits_wide_and_narrow_windows_and_follows_dark_mode(page, tmp_path):
    with opened(tmp_path, page.as_uri()) as shown:
        shown.wait("document.querySelector('table.heat') ? 1 : 0")
        for width in (1400, 380, 320):
            shown.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
            assert shown.value("innerWidth") == width
            assert shown.value("document.documentElement.scrollWidth") <= width
        colours = []
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            shown.call("Emulation.setEmulatedMedia", features=features)
            colours.append(shown.value("getComputedStyle(document.body).backgroundColor"))
        assert colours == ["rgb(255, 255, 255)", "rgb(20, 24, 30)"]


def test_names_are_escaped_and_order_is_kept(tmp_path):
    rows = [
        Classified(tmp_path / "a.png", "<b>", [("x & y", 0.9), ("<b>", 0.1)]),
        Classified(tmp_path / "b.png", "<b>", [("<b>", 0.8)]),
    ]
    evaluation = Evaluation("test", {}, rows)
    assert evaluation.per_class() == [("<b>", 2, 50.0, "x & y (1)")]
    assert evaluation.confusion() == (["<b>", "x & y"], [[1, 1], [0, 0]])
    assert [row.path.name for row in evaluation.mistakes()] == ["a.png"]


def test_epoch_rows_after_a_resume_replace_old_ones(tmp_path):
    for epoch, loss in ((1, 3.0), (2, 2.0), (3, 1.0), (2, 2.5)):
        append_epoch(tmp_path, {"epoch": epoch, "loss": loss})
    assert (tmp_path / "metrics.csv").read_text() == "epoch,loss\n1,3.0\n2,2.5\n"


def test_predictions_have_path_label_and_top_classes(tmp_path):
    top = TopClasses()
    top.update(torch.tensor([[1.0, 3.0], [2.0, -2.0]]), torch.tensor([1, 1]))
    folder = tmp_path / EVALUATIONS / "Toy_all"
    write_evaluation(folder, ["a.png", "b.png"], {0: "cat", 1: "dog"}, top, {"metrics": {"accuracy": 50.0}})
    header, first, second = (folder / "predictions.csv").read_text().splitlines()
    assert header.startswith("path,label,class_1,p_1") and first.startswith("a.png,dog,dog,0.88")
    assert second.startswith("b.png,dog,cat,0.98")
    assert json.loads((folder / "evaluation.json").read_text()) == {"metrics": {"accuracy": 50.0}}


def test_page_about_1000_wrong_images_of_100_classes_takes_at_most_5_mb(page, tmp_path):
    """Photographs of noise, which compress worst, in the run's folder in place of its own predictions."""
    run = tmp_path / "run"
    shutil.copytree(page.parent / "base2new" / "toy" / "CasPL_CoOp" / "shots_16" / "seed_1", run)
    noise = torch.randint(0, 256, (375, 500, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    Image.fromarray(noise.numpy()).save(tmp_path / "noise.jpg")
    top = TopClasses()
    labels = torch.arange(1000) % 100
    top.update(torch.randn(1000, 100, generator=torch.Generator().manual_seed(0)), labels)
    names = {label: f"a rather long class name {label}" for label in range(100)}
    for name in ("Toy_base", "Toy_new"):
        paths = [str(tmp_path / "noise.jpg")] * 1000
        write_evaluation(run / EVALUATIONS / name, paths, names, top, {"metrics": {"accuracy": 1.0}})
    assert caspl(["report", str(run), str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    assert (tmp_path / "page.html").stat().st_size < 5_000_000
    assert text.count("data:image/jpeg") >= 2 * 24 and text.count("1000 images") == 2


def test_page_about_an_output_folder_has_all_runs(page, tmp_path, capsys):
    assert caspl(["report", str(page.parent), str(tmp_path / "all.html")]) == 0
    assert "2 runs" in capsys.readouterr().out
    text = (tmp_path / "all.html").read_text()
    assert "Accuracy of all runs, %" in text and "base2new/toy/ZeroshotCLIP" in text
    assert text.count("<details><summary>CasPL") == 2 and text.count("Confusion matrix") == 2


@pytest.mark.parametrize("damage", ["epoch,loss\n1,two\n", "epoch,loss\n1,2,3\n", "x" * 200_000, "\0\n1\n", "\udcff"])
@pytest.mark.parametrize("name", ["metrics.csv", "predictions.csv"])
def test_damaged_table_is_named(page, tmp_path, capsys, name, damage):
    run = shutil.copytree(page.parent / "base2new" / "toy" / "CasPL_CoOp", tmp_path / "runs") / "shots_16" / "seed_1"
    (table,) = run.rglob(name)
    table.write_text(damage, errors="surrogateescape")
    code, error = caspl(["report", str(run), str(tmp_path / "page.html")]), capsys.readouterr().err
    assert code == 0 or (code == 2 and str(table) in error and error.count("\n") == 1)


def test_run_without_evaluation_is_named(tmp_path, capsys):
    toy.save_clip(tmp_path / "student.pt")
    train.run(toy.command(tmp_path, "CoOp", tmp_path / "run", TEST__NO_TEST="True"))
    assert caspl(["report", str(tmp_path / "run"), str(tmp_path / "page.html")]) == 2
    assert "expected a run that was evaluated" in capsys.readouterr().err and not (tmp_path / "page.html").exists()
