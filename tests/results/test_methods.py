"""Methods side by side: published averages of others, and the choice of rows."""

import csv
import io
import json

import pytest
from test_results import put

from trainers.cli import results
from trainers.results import methods, read


@pytest.fixture
def output(tmp_path):
    """Results of three trainers on one of the paper's datasets."""
    for trainer in ("CoOp", "CasPL_CoOp", "KgCoOp"):
        put(tmp_path, "base2new", "dtd", trainer, 1, base=80, new=60)
    return tmp_path


def averages(folder, *options, capsys):
    """Return {trainer: record} of the average hm."""
    assert results.main([str(folder), "--format", "json", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    return {r["trainer"]: r for r in found if (r["dataset"], r["metric"]) == ("Average", "hm")}


def test_neighbours_are_next_to_the_paper(output, capsys):
    found = averages(output, capsys=capsys)
    assert found["PromptKD"]["paper"] == 83.73 and found["PromptKD"]["mean"] is None
    assert found["KgCoOp"]["paper"] == 77.00 and found["KgCoOp"]["mean"] is not None  # the host's own publication
    assert found["CasPL_CoOp"]["paper"] == 79.30
    results.main([str(output)])
    printed = capsys.readouterr().out
    assert "PromptKD: published in arXiv 2403.02781, epoch selected on the test set." in printed
    assert printed.count("| PromptKD ") == 1


def test_published_names_are_those_of_trainers():
    found = {each.trainer: each.figures for each in read.read_neighbours()}
    paper = read.read_paper()
    for trainer in ("ZeroshotCLIP", "CoOp", "CoCoOp", "MaPLe", "PromptSRC", "CasPL_PromptSRC"):
        for column, figure in found[trainer].items():
            assert paper["base2new", "Average", trainer, column] == figure, trainer


def test_harmonic_means_of_neighbours_fit_their_figures():
    for each in read.read_neighbours():
        base, new, hm = (each.figures[column] for column in ("base", "new", "hm"))
        # A publication may average the datasets' harmonic means instead.
        assert 2 * base * new / (base + new) == pytest.approx(hm, abs=0.2), each.method


def test_other_tables_have_no_neighbours(tmp_path, capsys):
    put(tmp_path, "base2new", "shapes", "CoOp", 1, base=80, new=60)
    put(tmp_path, "base2new", "dtd", "CoOp", 1, shots=4, base=80, new=60)
    assert "PromptKD" not in averages(tmp_path, capsys=capsys)


def test_methods_choose_rows_and_their_order(output, capsys):
    line = ["--methods", "kgcoop", "CasPL_CoOp", "promptkd"]
    assert results.main([str(output), "--format", "csv", *line]) == 0
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    order = [r["trainer"] for r in found if r["dataset"] == "DescribableTextures" and r["metric"] == "base"]
    assert order == ["KgCoOp", "CasPL_CoOp"]
    assert {r["trainer"] for r in found} == {"KgCoOp", "CasPL_CoOp", "PromptKD"}
    gains = [float(r["gain"]) for r in found if r["trainer"] == "CasPL_CoOp" and r["gain"]]
    assert gains  # the host need not be shown


def test_unknown_method_is_rejected(output, capsys):
    assert results.main([str(output), "--methods", "PromptKF"]) == 2
    assert "PromptKD" in capsys.readouterr().err


def test_selection_keeps_tables_with_rows():
    assert methods.select([], ["CoOp"]) == []


def test_selection_on_the_test_set_is_marked(tmp_path, capsys):
    for trainer, selected in (("PromptKD", "test"), ("CasPL_PromptKD", "val")):
        path = put(tmp_path, "base2new", "shapes", trainer, 1, base=80, new=60)
        content = json.loads(path.read_text())
        content["configuration"] = {
            "TEST": {"FINAL_MODEL": "best_val"},
            "TRAINER": {"PROMPTKD": {"SELECT_ON": selected}},
        }
        path.write_text(json.dumps(content))
    results.main([str(tmp_path)])
    printed = capsys.readouterr().out
    assert printed.count("epoch selected on the test set") == 1
    assert "On Shapes: PromptKD, epoch selected on the test set." in printed
