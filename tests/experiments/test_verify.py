"""The acceptance kit on miniature data: every verdict of every check."""

import json

import pytest
import versions
from datasets_helpers import golden_folder, kind_of

from trainers.cli import verify as program
from trainers.experiments import verify as kit
from trainers.experiments.setting import Setting

SMALL = [
    *("MODEL.BACKBONE.NAME", "shapes-student", "TRAINER.CASPL.TEACHER.BACKBONE", "shapes-teacher", "INPUT.SIZE", "(48,48)"),
    *("TRAINER.CASPL.DEPTH_TEXT", "2", "TRAINER.CASPL.DEPTH_VISION", "3", "OPTIM.MAX_EPOCH", "1"),
]  # fmt: skip


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """The mini OxfordPets with its own counts as the published ones."""
    root = golden_folder(tmp_path / "data", "oxford_pets")
    kind = kind_of("OxfordPets")
    dataset = kind.located(root, root)
    parts = dict(zip(("train", "val", "test"), map(len, dataset.read_all()), strict=True))
    monkeypatch.setattr(kind, "facts", kind.facts._replace(classes=3, files={}, **parts))
    return root


def checks(root, output, quick=True, host="CoOp"):
    """Return {name: check} of OxfordPets."""
    setting = Setting("oxford_pets", root, output, list(SMALL))
    return {check.name: check for check in kit.verify(setting, host, quick)}


def publish(monkeypatch, **figures):
    """Replace the paper's figures by {column: value} of zero-shot CLIP on OxfordPets."""
    table = {("base2new", "OxfordPets", "ZeroshotCLIP", column): value for column, value in figures.items()}
    monkeypatch.setattr(kit, "read_paper", lambda: table)
    return table


def test_complete_data_and_equal_figures_are_ok(pets, tmp_path, monkeypatch):
    publish(monkeypatch, base=0.0, new=0.0)
    first = checks(pets, tmp_path / "out")
    figures = {half: float(first[f"zero-shot, {half} classes"].found) for half in ("base", "new")}
    publish(monkeypatch, **figures)
    again = checks(pets, tmp_path / "out")
    assert {check.verdict for check in again.values()} == {"ok"}, again
    assert again["classes"].expected == again["classes"].found == "3"


def test_other_figures_differ_with_a_cause(pets, tmp_path, monkeypatch):
    publish(monkeypatch, base=-10.0, new=-10.0)
    found = checks(pets, tmp_path / "out")
    for half in ("base", "new"):
        check = found[f"zero-shot, {half} classes"]
        assert check.verdict == "differs" and "template" in check.cause and "± 0.3" in check.expected


def test_unpublished_figures_are_skipped(pets, tmp_path, monkeypatch):
    publish(monkeypatch)
    assert checks(pets, tmp_path / "out")["zero-shot"].verdict == "skipped"


def test_all_classes_are_compared_for_shifted_test_sets(pets, tmp_path, monkeypatch):
    monkeypatch.setitem(kit.ALL_CLASSES, "OxfordPets", -5.0)
    assert checks(pets, tmp_path / "out")["zero-shot"].verdict == "differs"


def test_incomplete_data_are_not_evaluated(pets, tmp_path):
    next((pets / "oxford_pets/images").iterdir()).unlink()
    found = checks(pets, tmp_path / "out")
    assert found["files"].verdict == "differs" and "caspl data fetch" in found["files"].cause
    assert found["accuracy"].verdict == "skipped" and not list((tmp_path / "out").rglob("*.json"))


def test_missing_data_are_reported(tmp_path):
    found = checks(tmp_path, tmp_path / "out")
    assert found["files"].verdict == "differs" and "does not exist" in found["files"].found


def test_known_and_other_split_files(pets, tmp_path, monkeypatch):
    kind = kind_of("OxfordPets")
    monkeypatch.setattr(kind, "facts", kind.facts._replace(files={"split_zhou_OxfordPets.json": "0" * 64}))
    publish(monkeypatch)
    assert checks(pets, tmp_path / "out")["split file"].verdict == "skipped", "the counts agree"


@pytest.mark.slow
def test_full_verification_trains_with_and_without_caspl(pets, tmp_path, monkeypatch):
    table = publish(monkeypatch)
    table["base2new", "OxfordPets", "CoOp", "hm"] = -50.0
    table["base2new", "OxfordPets", "CasPL_CoOp", "hm"] = 50.0
    monkeypatch.setitem(kit.SPREAD, "OxfordPets", 60.0)
    found = checks(pets, tmp_path / "out", quick=False)
    assert found["CasPL_CoOp, harmonic mean"].verdict == "ok"
    assert found["CoOp, harmonic mean"].expected == "-50.00 ± 60.0"


def test_weights_are_compared_with_their_published_hash(tmp_path, monkeypatch):
    path = tmp_path / "ViT-B-16.pt"
    digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"  # of b"test"
    monkeypatch.setattr(kit, "published_hashes", lambda: {"ViT-B/16": (path, digest)})
    (check,) = kit.verify_weights(("ViT-B/16",))
    assert check.verdict == "skipped"
    path.write_bytes(b"test")
    (check,) = kit.verify_weights(("ViT-B/16",))
    assert check.verdict == "ok"
    path.write_bytes(b"truncated")
    (check,) = kit.verify_weights(("ViT-B/16",))
    assert check.verdict == "differs" and check.cause


def test_published_hashes_are_those_of_openai():
    from trainers.backbones import published_hashes

    path, digest = published_hashes()["ViT-B/16"]
    assert path.name == "ViT-B-16.pt" and digest.startswith("5806e77cd80f8b59890b7e101eabd078")


def test_program_writes_report(pets, tmp_path, monkeypatch, capsys):
    publish(monkeypatch, base=-10.0, new=-10.0)
    arguments = ["oxford_pets", "--data", pets, "--output", tmp_path / "out", "--quick", "--weights", *SMALL]
    monkeypatch.setattr(
        kit, "published_hashes", lambda: {n: (tmp_path / "none", "0" * 64) for n in ("ViT-B/16", "ViT-L/14")}
    )
    assert program.main([str(argument) for argument in arguments]) == 1
    out = capsys.readouterr().out
    assert "differs oxford_pets zero-shot, base classes: expected -10.00" in out and "usual cause:" in out
    report = json.loads((tmp_path / "out/verify.json").read_text())
    assert {check["verdict"] for check in report["checks"]} == {"ok", "differs", "skipped"} and report["versions"][
        "torch"
    ]


@versions.counts_operations
def test_dry_run_names_the_runs_and_writes_nothing(tmp_path, capsys):
    line = ["--data", str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--dry-run", *SMALL]
    for more, trainers in ([], ("ZeroshotCLIP", "CoOp", "phase 1", "CasPL_CoOp")), (["--quick"], ("ZeroshotCLIP",)):
        assert program.main(["oxford_pets", *more, *line]) == 0
        out = capsys.readouterr().out
        assert [what for what in trainers if f"oxford_pets {what}" not in out] == [] and f"{len(trainers)} jobs" in out
    assert not any(tmp_path.iterdir())


def test_program_rejects_unknown_dataset(capsys):
    with pytest.raises(SystemExit):
        program.main(["oxford_pet", "--data", "nowhere"])
    assert "oxford_pets" in capsys.readouterr().err
