"""`reproduce ablations`: its keys, its runs and its tables; and the share of unlabelled images."""

import json
from types import SimpleNamespace

import pytest
import toy
import versions

from trainers import config
from trainers.cli import protocols, train
from trainers.cli.program import guarded
from trainers.experiments import ablations, cost
from trainers.experiments.setting import Setting
from trainers.experiments.variations import label
from trainers.method import unlabelled


@pytest.mark.parametrize("miniature", [False, True])
@pytest.mark.parametrize("ablation", ablations.ABLATIONS, ids=lambda ablation: ablation.name)
def test_every_value_is_valid_and_read(ablation, miniature, tmp_path):
    scope = ablations.MINIATURE if miniature else ablations.PAPER
    made = Setting(scope.datasets[0], tmp_path, tmp_path)
    found = ablation.variations(miniature)
    assert len(found) >= 2
    for varied in found:
        setting = made.with_variation(varied)
        trainer = f"CasPL_{scope.hosts[0]}" if ablation.name == "joint" else "CasPL"
        setting.configuration(trainer, 1, tmp_path, setting.options_for(trainer))
        assert setting.varied_of(trainer) == varied and not setting.varied_of(scope.hosts[0])
        assert all(config.reads(trainer, key) for key, _ in varied)


def test_share_is_drawn_with_the_seed():
    items = [SimpleNamespace(impath=f"{number}.jpg") for number in range(20)]
    names = [[item.impath for item in unlabelled.share(items, 0.25, seed)] for seed in (1, 1, 2)]
    assert len(names[0]) == 5 and names[0] == names[1] != names[2]
    assert names[0] == sorted(names[0], key=lambda name: int(name.partition(".")[0]))
    assert unlabelled.share(items, 1.0, 1) == items and len(unlabelled.share(items, 0.001, 1)) == 1


def test_phase_1_takes_a_share_and_records_it(tmp_path):
    toy.draw(tmp_path / "toy")
    toy.save_clip(tmp_path / "student.pt")
    toy.save_clip(tmp_path / "teacher.pt", toy.TEACHER, seed=4)
    line = toy.command(tmp_path, "CasPL", tmp_path / "run", OPTIM__MAX_EPOCH=1, TRAINER__CASPL__SHARE=0.5)
    assert guarded(lambda: train.run(line)) == 0
    (item,) = json.loads((tmp_path / "run/ledger.json").read_text())
    assert item["images"] == len(toy.NAMES) * toy.PER_CLASS["train"] // 2


@versions.counts_operations
@pytest.mark.parametrize("miniature", [["--miniature"], ["--datasets", "dtd"]])
def test_dry_run_lists_every_value(miniature, tmp_path, capsys, monkeypatch):
    for name in ("costs", "phase_1"):
        monkeypatch.setattr(cost, name, lambda *args: [])
    assert protocols.main("reproduce", ["ablations", *miniature, "--dry-run", "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for ablation in ablations.ABLATIONS:
        for varied in ablation.variations("--miniature" in miniature):
            assert f"({label(varied)})" in out


def test_vary_is_rejected(tmp_path, capsys):
    assert protocols.main("reproduce", ["ablations", "--output", str(tmp_path), "--vary", "OPTIM.LR=1,2"]) == 2
    assert "--vary" in capsys.readouterr().err


@pytest.mark.slow
def test_tables_and_plots_over_each_key(tmp_path, capsys, monkeypatch):
    chosen = [one for one in ablations.ABLATIONS if one.name in ("temperature", "classes")]
    monkeypatch.setattr(ablations, "ABLATIONS", chosen)
    monkeypatch.setattr(ablations, "MINIATURE", ablations.Scope(("shapes_forms",), seeds=(1, 2), hosts=("CoOp",)))
    folders = ["--data", str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--cluster", "none"]
    fast = ["OPTIM.MAX_EPOCH", "1", "--boost", "OPTIM.MAX_EPOCH", "1"]
    assert protocols.main("reproduce", ["ablations", "--miniature", *folders, *fast]) == 0
    out = capsys.readouterr().out
    for key in ("TEMPERATURE", "CLASSES"):
        assert f"by TRAINER.CASPL.{key}" in out
    assert {path.name for path in (tmp_path / "out/ablations").iterdir()} == {"temperature.png", "classes.png"}
    assert len(list((tmp_path / "out").rglob("boosting.safetensors"))) >= 6
    (table,) = [part for part in out.split("## ") if "by TRAINER.CASPL.CLASSES" in part.splitlines()[0]]
    rows = [line for line in table.splitlines() if "CasPL_CoOp" in line]
    assert [row.split("|")[3].strip() for row in rows] == ["all", "base"]  # the other ablation's runs are left out
