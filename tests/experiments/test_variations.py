"""Ablations: `--vary` makes the product of values once each, and `results --by` keeps settings apart."""

import json
from pathlib import Path

import pytest
import versions

from trainers.cli import protocols, results
from trainers.config import ConfigError
from trainers.experiments import cost, variations
from trainers.experiments.grid import BOOST, Job, Plan, unique
from trainers.experiments.protocols import Scope
from trainers.experiments.setting import Setting

FAST = ["OPTIM.MAX_EPOCH", "1", "--boost", "OPTIM.MAX_EPOCH", "1"]


def test_product_of_several_keys():
    found = variations.product(["A.B=1,2", "boost:C.D=(48,48),[1,2],'x,y'"])
    assert len(found) == 6 and found[0] == (("A.B", "1"), ("boost:C.D", "(48,48)"))
    assert [dict(one)["boost:C.D"] for one in found[:3]] == ["(48,48)", "[1,2]", "'x,y'"]
    assert variations.product([]) == [()]


@pytest.mark.parametrize("given", [["A.B"], ["A.B="], ["a.b=1"], ["A.B=1,1"], ["A.B=1", "A.B=2"], ["both:A.B=1"]])
def test_unclear_variations_are_rejected(given):
    with pytest.raises(ConfigError, match="--vary"):
        variations.product(given)


def test_folders_of_different_values_differ():
    values = ["a/b", "a_b", "a b", "x" * 300, "x" * 301]
    folders = {variations.folder((("A.B", value),)) for value in values}
    assert len(folders) == 5 and all(len(folder.name) < 200 for folder in folders)
    assert variations.folder(()) == Path()


def setting(*varied, **more):
    """Return a setting of the embedded forms with varied keys."""
    made = Setting("shapes_forms", Path("data"), Path("out"), **more)
    return made.with_variation(varied)


def test_a_run_depends_on_the_keys_that_it_reads():
    temperature = ("TRAINER.CASPL.TEMPERATURE", "2")
    words, rate = ("TRAINER.COOP.N_CTX", "4"), ("OPTIM.LR", "0.1")
    made = setting(temperature, words, rate)
    assert made.varied_of("CasPL") == (temperature,)
    assert made.varied_of("CoOp") == (words, rate) and made.varied_of("MaPLe") == (rate,)
    assert made.varied_of("CasPL_CoOp") == (temperature, words, rate)
    assert made.varied_of("ZeroshotCLIP") == ()
    assert setting(("boost:OPTIM.LR", "0.1")).varied_of("CoOp") == ()
    assert setting(("adapt:OPTIM.LR", "0.1")).varied_of("CasPL") == ()


def test_baselines_and_phase_1_are_shared_where_nothing_changes():
    plan = Plan("base2new", Scope(("shapes_forms",), (1, 2), ("CoOp",)), [])
    for key, phases, hosts, cascaded in (
        ("TRAINER.CASPL.TEMPERATURE", 3, 2, 6),
        ("TRAINER.COOP.N_CTX", 1, 6, 6),
        ("TRAINER.CASPL.TEXT_ORDER", 2, 2, 4),
    ):
        values = ["boosting_first", "host_first"] if key.endswith("ORDER") else ["1", "2", "3"]
        jobs = unique(job for value in values for job in plan.jobs(setting((key, value))))
        found = [job.trainer for job in jobs]
        counts = [found.count(trainer) for trainer in (BOOST, "CoOp", "CasPL_CoOp", "ZeroshotCLIP")]
        assert counts == [phases, hosts, cascaded, 1], key
        for job in jobs:  # phase 1 comes before what needs it
            assert job.needs is None or job.needs in [other.place for other in jobs[: jobs.index(job)]]


def test_job_names_what_varies():
    assert "(TRAINER.CASPL.TEMPERATURE=2)" in str(Job(setting(("TRAINER.CASPL.TEMPERATURE", "2")), "CasPL"))
    assert "(" not in str(Job(setting(("TRAINER.CASPL.TEMPERATURE", "2")), "ZeroshotCLIP"))


def test_bad_value_is_rejected_before_anything_runs(tmp_path, capsys):
    line = ["--data", str(tmp_path / "data"), "--output", str(tmp_path / "out"), *FAST]
    grid = ["base2new", "--datasets", "shapes_forms", "--hosts", "coop", "--seeds", "1"]
    bad = ["--vary", "TRAINER.CASPL.TEMPERATURE=1,-1"]
    assert protocols.main("reproduce", [*grid, *line, *bad]) == 2
    assert protocols.main("base2new", ["shapes_forms", "1", "--host", "coop", *line, *bad]) == 2
    assert capsys.readouterr().err.count("TRAINER.CASPL.TEMPERATURE") == 2 and not list(tmp_path.iterdir())


@versions.counts_operations
def test_key_of_phase_2_varies_in_a_single_run(tmp_path, monkeypatch, capsys):
    for name in ("costs", "phase_1"):  # counting operations takes seconds
        monkeypatch.setattr(cost, name, lambda *_: ())
    line = ["--data", str(tmp_path), "--output", str(tmp_path / "out"), "--dry-run", *FAST]
    vary = ["--vary", "adapt:OPTIM.LR=0.002,0.02"]
    assert protocols.main("few_shot", ["shapes_forms", "1", "1", "--host", "coop", *vary, *line]) == 0
    assert "3 jobs: 0 finished, 0 blocked, 3 to run" in capsys.readouterr().out  # phase 1 is shared


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """The output folder of an ablation over two keys, one of phase 1 and one of the host."""
    root = tmp_path_factory.mktemp("vary")
    vary = ["--vary", "TRAINER.CASPL.N_CTX_VISION=1,2", "TRAINER.COOP.N_CTX=2,3"]
    line = ["--data", str(root / "data"), "--output", str(root / "out"), *vary, *FAST]
    grid = ["base2new", "--datasets", "shapes_forms", "--hosts", "coop", "--seeds", "1", "2"]
    assert protocols.main("reproduce", [*grid, *line]) == 0
    return root / "out"


@pytest.mark.slow
def test_ablation_is_made_once_and_read_again(output, capsys):
    prompts = list(output.rglob("boosting/*/boosting.safetensors"))
    assert len(prompts) == 2  # the host's key does not change phase 1
    made = [json.loads(path.read_text()) for path in output.rglob("result.json")]
    assert sorted(each["trainer"] for each in made) == ["CasPL"] * 2 + ["CasPL_CoOp"] * 8 + ["CoOp"] * 4 + [
        "ZeroshotCLIP"
    ]
    cascaded = [each["varied"] for each in made if each["trainer"] == "CasPL_CoOp"]
    assert {"TRAINER.CASPL.N_CTX_VISION": "2", "TRAINER.COOP.N_CTX": "3"} in cascaded
    before = {path: path.stat().st_mtime_ns for path in output.rglob("result.json")}
    vary = ["--vary", "TRAINER.CASPL.N_CTX_VISION=1,2", "TRAINER.COOP.N_CTX=2,3"]
    line = ["--data", str(output.parent / "data"), "--output", str(output), *vary, *FAST]
    grid = ["base2new", "--datasets", "shapes_forms", "--hosts", "coop", "--seeds", "1", "2"]
    assert protocols.main("reproduce", [*grid, *line]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in output.rglob("result.json")}
    assert "by TRAINER.COOP.N_CTX" in capsys.readouterr().out


@pytest.mark.slow
def test_tables_over_a_key_keep_settings_apart(output, tmp_path, capsys):
    plot = tmp_path / "plot.png"
    line = [str(output), "--by", "TRAINER.CASPL.N_CTX_VISION"]
    assert results.main([*line, "--format", "json", "--plot", str(plot)]) == 0
    found = [r for r in json.loads(capsys.readouterr().out) if r["trainer"] == "CasPL_CoOp" and r["metric"] == "hm"]
    assert {(r["value"], r["settings"]) for r in found} == {
        (value, f"TRAINER.COOP.N_CTX {n}") for value in "12" for n in (2, 3)
    }
    assert all(r["seeds"] == 2 for r in found) and plot.stat().st_size > 10_000
    assert [r["paired_seeds"] for r in found if r["value"] == "2"] == [2, 2]
    assert results.main([str(output)]) == 0
    titles = [text for text in capsys.readouterr().out.splitlines() if text.startswith("## ")]
    assert len(titles) == 4 and all("N_CTX_VISION" in title and "COOP.N_CTX" in title for title in titles)


@pytest.mark.slow
def test_single_run_takes_variations(tmp_path, capsys):
    line = ["--data", str(tmp_path / "data"), "--output", str(tmp_path / "out"), *FAST]
    vary = ["--vary", "TRAINER.CASPL.TEXT_ORDER=host_first,boosting_first"]
    assert protocols.main("few_shot", ["shapes_forms", "1", "1", "--host", "coop", *line, *vary, "--baseline"]) == 0
    out = capsys.readouterr().out
    assert "by TRAINER.CASPL.TEXT_ORDER" in out and "host_first" in out
    assert len(list((tmp_path / "out").rglob("CoOp/shots_1/seed_1/result.json"))) == 1
