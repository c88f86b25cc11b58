"""The base-to-new command from end to end, on `shapes`, with one epoch in each phase."""

import hashlib
import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from trainers.cli import protocols as driver

SHORT = ["OPTIM.MAX_EPOCH", "1"]


def call(script, *arguments):
    """Run a script of scripts/caspl as a user does."""
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = ["bash", str(ROOT / "scripts" / "caspl" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """--data and --output, with a boosting prompt of one epoch."""
    folder = tmp_path_factory.mktemp("base2new")
    places = ["--data", folder / "data", "--output", folder / "output"]
    done = call("boost.sh", "shapes", *places, *SHORT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(folder / "output" / "boosting" / "shapes" / "boosting.safetensors")
    return places


@pytest.fixture(scope="module")
def first(places):
    """What the command printed."""
    done = call("base2new.sh", "shapes", 1, "--host", "coop", *places, *SHORT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_command_ends_with_table(first, places):
    rows = [line.split("  ") for line in first.strip().splitlines()[-4:]]
    boosted = "CLIP with the boosting prompt alone"
    assert [row[0] for row in rows] == ["CLIP, zero-shot", boosted, "CoOp", "CasPL_CoOp"]
    figures = [[float(cell) for cell in row[1:] if cell.strip()] for row in rows]
    for base, new, mean in figures:
        assert 100 / 18 < base < 100 and 100 / 18 < new < 100
        assert mean == pytest.approx(2 * base * new / (base + new), abs=0.02)
    result = json.loads((places[3] / "base2new/shapes/CasPL_CoOp/shots_16/seed_1/result.json").read_text())
    assert [result[key] for key in ("base", "new", "hm")] == pytest.approx(figures[3], abs=0.005)


def test_result_records_its_origin(first, places):
    folder = places[3] / "base2new/shapes/CasPL_CoOp/shots_16/seed_1"
    result = json.loads((folder / "result.json").read_text())
    expected = {"version": 2, "dataset": "shapes", "trainer": "CasPL_CoOp", "host": "CoOp", "seed": 1, "shots": 16}
    assert {key: result[key] for key in expected} == expected
    kept = hashlib.sha256((folder / "boosting.safetensors").read_bytes()).hexdigest()
    assert result["boosting"]["sha256"] == kept
    sizes = {"text_depth": 2, "text_tokens": 4, "vision_depth": 3, "vision_tokens": 8}
    assert {key: result["boosting"][key] for key in sizes} == sizes and result["boosting"]["seed"] == 1
    assert result["boosting"]["teacher"] == "shapes-teacher" and len(result["data"]["shapes"]["fingerprint"]) == 64
    assert result["weights"].keys() == {"MODEL.BACKBONE.NAME"}  # the teacher is phase 1's
    assert result["configuration"]["TRAINER"].keys() == {"NAME", "COOP", "CASPL"}
    assert result["configuration"]["TRAINER"]["CASPL"].keys() == {"CHECKPOINT", "JOINT", "TEXT_ORDER"}
    assert result["configuration"]["TRAINER"]["COOP"]["N_CTX"] == 4 and "torch" in result["versions"]
    assert {"accuracy", "macro_f1"} <= set(result["evaluations"]["new"])
    log = (folder / "log.txt").read_text()
    assert "accuracy" in log and "New classes only: 18 of 36" in log


def test_finished_runs_are_read(first, places):
    again = call("base2new.sh", "shapes", 1, "--host", "coop", *places, *SHORT)
    assert again.stdout.splitlines()[-4:] == first.splitlines()[-4:]
    assert "Phase 1 is finished" in again.stdout and "CasPL_CoOp is finished" in again.stdout
    assert "epoch [" not in again.stdout


def test_stages_are_numbered_with_their_time(first):
    lines = first.splitlines()
    headings = [line for line in lines if re.match(r"\d/5 ", line)]
    assert [heading[:3] for heading in headings] == [f"{number}/5" for number in range(1, 6)]
    assert "render data" in headings[0] and "table" in headings[4]
    assert len([line for line in lines if re.fullmatch(r"    took \d+:\d\d", line)]) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shape", 1], "unknown dataset 'shape': did you mean shapes"),
        (["shapes", "one"], "'one' is not a whole number"),
        (["shapes", -1], "-1 is below 0"),
        (["shapes", 1, "--host", "mapel"], "unknown host 'mapel': did you mean maple"),
        (["shapes", 1, "OPTIM.MAX_EPOCHS", "2"], "unknown key 'OPTIM.MAX_EPOCHS': did you mean OPTIM.MAX_EPOCH"),
        (
            ["shapes", 1, "--host", "coop", "OPTIM.MAX_EPOCH", "2"],
            "holds a run with other settings (OPTIM.MAX_EPOCH: 1 -> 2)",
        ),
        (["shapes", 1, "TRAINER.CASPL.N_CTX_TEXT", "2"], "was trained with other settings (TRAINER.CASPL.N_CTX_TEXT"),
        (["oxford_pets", 1], "oxford_pets/images does not exist"),
    ],
)
def test_mistake_is_one_line_and_writes_nothing(first, places, arguments, message, capsys):
    before = sorted(places[3].rglob("*"))
    line = [str(argument) for argument in [*arguments, *places]]
    try:
        code = driver.main("base2new", line)
    except SystemExit as stopped:  # argparse
        code = stopped.code
    assert code == 2 and message in capsys.readouterr().err
    assert sorted(places[3].rglob("*")) == before
