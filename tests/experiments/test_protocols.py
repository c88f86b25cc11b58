"""Protocols and their grid on toy data: recipes, results, provenance, failures, and jobs in other processes."""

import json
import os
import sys
from pathlib import Path

import grid_jobs
import protocol
import pytest
import toy
from dassl.data.datasets import DATASET_REGISTRY
from grid_jobs import Prompt, Touch
from safetensors import safe_open
from safetensors.torch import save_file

from trainers.cli import protocols as driver
from trainers.cli import train
from trainers.experiments import checks, cluster, grid, places, protocols, recipes, result, runs
from trainers.method import prompt_file
from trainers.method.boosting import CasPL
from trainers.training import provenance as ledger


@DATASET_REGISTRY.register()
class ToyTarget(toy.Toy):
    """Another dataset: the first four classes."""

    def read(self, root):
        parts = super().read(root)
        kept = [[item for item in part if item.label < 4] for part in parts]
        return tuple(kept)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Toys, the configuration file of a target, and a boosting prompt of one epoch for each recipe."""
    root = tmp_path_factory.mktemp("protocols")
    protocol.prepare(root)
    (root / "toy_target.yaml").write_text("DATASET: {NAME: ToyTarget}\n")
    for folder in ("boosting", "boosting_cross"):
        train.run(toy.command(root, "CasPL", root / "output" / folder / "toy"))
    return root


@pytest.fixture
def setting(root, monkeypatch):
    """A function: the setting of a protocol on the toys."""
    monkeypatch.setattr(runs, "dataset_files", lambda: {"toy_target": root / "toy_target.yaml"})
    return lambda name: Setting("toy", root, root / "output", [], name, ["toy_target"], epochs=1)


class Setting(protocol.ToySetting):
    """The toys, on which zero-shot CLIP can be tested on a target, too."""

    def configuration(self, trainer, seed, folder, options=(), dataset=""):
        target = ["DATASET.NAME", "ToyTarget"] if dataset not in ("", "toy") else []
        return super().configuration(trainer, seed, folder, [*options, *target], dataset)


# ---- recipes


def configuration(name, dataset, trainer, *options):
    """Return the configuration of a run in a protocol."""
    setting = runs.Setting(dataset, Path("data"), Path("out"), list(options), name)
    return setting.configuration(trainer, 1, Path("out"), setting.options_for(trainer))


@pytest.mark.parametrize(
    ("name", "dataset", "trainer", "expected"),
    [
        ("base2new", "dtd", "CasPL", (20, 4, 8, 12)),
        ("few_shot", "imagenet", "CasPL", (20, 128, 8, 12)),
        ("cross_dataset", "imagenet", "CasPL", (20, 128, 4, 1)),
        ("base2new", "dtd", "CasPL_PromptSRC", (20, 4, 8, 12, 15, 1)),
        ("few_shot", "dtd", "CasPL_PromptSRC", (50, 4, 8, 12, 45, 5)),
        ("few_shot", "ucf101", "CasPL_PromptSRC", (50, 4, 8, 12, 30, 30)),
        ("few_shot", "ucf101", "PromptSRC", (50, 4, 4, 9, 30, 30)),
        ("cross_dataset", "imagenet", "CasPL_PromptSRC", (20, 4, 8, 3, 6, 10)),
        ("few_shot", "shapes", "PromptSRC", (20, 8, 4, 2, 15, 1)),
        ("few_shot", "shapes_misnamed", "PromptSRC", (12, 8, 4, 1, 10, 1)),
        ("cross_dataset", "shapes_misnamed", "CasPL", (30, 32, 2, 1)),
    ],
)
def test_recipe_changes_by_protocol_and_dataset(name, dataset, trainer, expected):
    cfg = configuration(name, dataset, trainer)
    node = cfg.TRAINER.CASPL if trainer == "CasPL" else cfg.TRAINER.PROMPTSRC
    found = (cfg.OPTIM.MAX_EPOCH, cfg.DATALOADER.TRAIN_X.BATCH_SIZE, node.N_CTX_TEXT)
    found += (node.DEPTH_TEXT,) if trainer == "CasPL" else (node.PROMPT_DEPTH_TEXT, node.GPA_MEAN, node.GPA_STD)
    assert found == expected


@pytest.mark.parametrize(
    ("name", "trainer", "keys", "expected"),
    [
        ("few_shot", "CoOp", ("N_CTX", "CTX_INIT"), (16, "", 200, 0.002)),
        ("few_shot", "CasPL_CoOp", ("N_CTX", "CTX_INIT"), (8, "", 50, 0.002)),
        ("cross_dataset", "MaPLe", ("N_CTX", "PROMPT_DEPTH"), (2, 9, 2, 0.0026)),
        ("cross_dataset", "CasPL_MaPLe", ("N_CTX", "PROMPT_DEPTH"), (8, 12, 2, 0.0026)),
        ("cross_dataset", "CasPL_CoOp", ("N_CTX", "CTX_INIT"), (8, "", 50, 0.002)),
    ],
)
def test_recipes_of_other_hosts(name, trainer, keys, expected):
    cfg = configuration(name, "imagenet", trainer)
    node = cfg.TRAINER[trainer.removeprefix("CasPL_").upper()]
    assert (*(node[key] for key in keys), cfg.OPTIM.MAX_EPOCH, cfg.OPTIM.LR) == expected


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_embedded_recipe_has_its_student_in_every_phase(name):
    hosts = places.host_names().values()
    for trainer in ("ZeroshotCLIP", "CasPL", *hosts, *(f"CasPL_{host}" for host in hosts)):
        assert configuration(name, "shapes_misnamed", trainer).MODEL.BACKBONE.NAME == "shapes-student-tokens"
        assert configuration(name, "shapes", trainer).MODEL.BACKBONE.NAME == "shapes-student"
    cfg = configuration(name, "shapes_misnamed", "CasPL_CoCoOp", "OPTIM.LR", "0.5")
    assert (cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH) == (0.5, 10)


def test_command_line_overrides_recipe():
    cfg = configuration("few_shot", "dtd", "PromptSRC", "OPTIM.MAX_EPOCH", "7")
    assert cfg.OPTIM.MAX_EPOCH == 7 and cfg.TRAINER.PROMPTSRC.GPA_MEAN == 45


def test_recipes_name_existing_datasets():
    known = places.dataset_files()
    for name, dataset, _ in recipes._BY_DATASET:
        assert name in protocols.PROTOCOLS and dataset in known
    for dataset, changes in recipes._EMBEDDED.items():
        assert dataset in known and protocols.is_miniature(dataset) and dataset not in protocols.targets_of("shapes")
        assert changes.keys() <= {"", "CasPL", "ZeroshotCLIP", *places.host_names().values()}
    assert set(protocols.ELEVEN + protocols.SHIFTED) <= set(known)
    assert len(protocols.targets_of("imagenet")) == 14 and "imagenet" not in protocols.targets_of("imagenet")


# ---- results


@pytest.mark.parametrize(
    ("name", "tests"),
    [("few_shot", ["all"]), ("cross_dataset", ["source", "toy_target"]), ("base2new", ["base", "new"])],
)
def test_results_of_all_protocols(setting, name, tests):
    made = setting(name)
    results = [
        runs.untrained(made, "ZeroshotCLIP"),
        runs.untrained(made, "CasPL"),
        runs.host_run(made, "CoOp", 3, 2),
        runs.host_run(made, "CasPL_CoOp", 3, 2),
    ]
    folders = ["ZeroshotCLIP", "CasPL", "CoOp/shots_2/seed_3", "CasPL_CoOp/shots_2/seed_3"]
    for made_now, folder in zip(results, folders, strict=True):
        path = made.output / name / "toy" / folder / "result.json"
        kept = result.read(path)
        assert kept == made_now and (kept.protocol, kept.dataset) == (name, "toy")
        assert list(kept.evaluations) == tests and all(0 <= one["accuracy"] <= 100 for one in kept.evaluations.values())
        assert {"accuracy", "macro_f1"} <= set(kept.evaluations[tests[0]])
        assert kept.seed == (3 if "seed" in folder else None) and kept.shots == (2 if "seed" in folder else None)
        assert (kept.host == "CoOp") == ("CoOp" in folder) and (kept.boosting is None) == ("CasPL" not in folder)
        assert set(kept.data) == {"toy"} | ({"toy_target"} if name == "cross_dataset" else set())
        content = json.loads(path.read_text())
        assert {key: content[key] for key in kept.figures} == kept.figures  # as in version 0.1.0
    assert [[seen["phase"] for seen in one.ledger] for one in results] == [
        *([], ["boosting"], ["adapting"]),
        ["boosting", "adapting"],
    ]
    assert [runs.untrained(made, "CasPL"), runs.host_run(made, "CasPL_CoOp", 3, 2)] == [results[1], results[3]]
    assert [runs.read_finished(made, "CasPL", None, None), runs.read_finished(made, "CasPL_CoOp", 3, 2)] == results[
        1::2
    ]
    assert driver._table(results).count("\n") == 5


def test_boosting_prompt_alone_is_tested_on_all_classes(setting, root, tmp_path):
    made = setting("few_shot")
    made.output = tmp_path
    train.run(toy.command(root, "CasPL", made.boosting_dir, TRAINER__CASPL__CLASSES="base"))
    made_now = runs.untrained(made, "CasPL")
    assert made_now.ledger[0]["classes"] == "base"
    tests = (made.boosting_dir / "log.txt").read_text().split("Evaluate on the *test* set")
    assert "* total: 9" in tests[1] and "* total: 18" in tests[2]  # 3 and 6 classes of 3 test images


def test_target_is_tested_with_its_classes_and_no_draw(setting, root):
    made = setting("cross_dataset")
    folder = made.folder("CoOp", 3, 2)
    made_now = runs.host_run(made, "CoOp", 3, 2)
    again = train.run(
        ["--eval-only", "--model-dir", str(folder), "DATASET.NAME", "ToyTarget", "DATASET.NUM_SHOTS", "-1"]
    )
    assert made_now.targets == {"toy_target": dict(again)}
    assert [path.name for path in (root / "toy" / "split_fewshot").iterdir() if "shot_16" in path.name] == []
    assert "* total: 12" in (folder / "log.txt").read_text()  # 4 classes of 3 test images


# ---- which data went where


@pytest.mark.parametrize(("classes", "number"), [("all", 6), ("base", 3)])
def test_ledger_of_both_phases(root, tmp_path, classes, number):
    boost = tmp_path / "boost"
    train.run(toy.command(root, "CasPL", boost, TRAINER__CASPL__CLASSES=classes))
    first = ledger.item("boosting", "Toy", 4 * number, False, classes, toy.NAMES[:number])
    assert ledger.kept(boost) == [first]
    more = {"TRAINER__CASPL__CHECKPOINT": boost, "DATASET__SUBSAMPLE_CLASSES": "base", "DATASET__NUM_SHOTS": 2}
    train.run(toy.command(root, "CasPL_CoOp", tmp_path / "run", **more))
    second = ledger.item("adapting", "Toy", 6, True, "base", toy.NAMES[:3])
    assert ledger.kept(tmp_path / "run") == [first, second]
    best = {"TRAINER__CASPL__CLASSES": classes, "TEST__FINAL_MODEL": "best_val"}
    train.run(toy.command(root, "CasPL", tmp_path / "best", **best))
    assert ledger.kept(tmp_path / "best") == [first | {"labels": True}]


def test_phase_1_cannot_read_labels(root, tmp_path, monkeypatch):
    loss = CasPL.compute_loss

    def reading(self, batch):
        batch["label"]
        return loss(self, batch)

    monkeypatch.setattr(CasPL, "compute_loss", reading)
    with pytest.raises(KeyError, match="label"):
        train.run(toy.command(root, "CasPL", tmp_path / "run"))


def test_boosting_file_without_ledger_is_read(root, tmp_path):
    file = root / "output" / "boosting" / "toy" / "boosting.safetensors"
    assert prompt_file.read_info(file).images == 24
    with safe_open(file, framework="pt") as opened:
        later = ("images", "labels", "identity", "teacher_weights", "checksum")
        metadata = {key: value for key, value in opened.metadata().items() if key not in later}
        metadata["code_version"] = '"0.1.0"'
        save_file({key: opened.get_tensor(key) for key in opened.keys()}, tmp_path / "old", metadata)
    info = prompt_file.read_info(tmp_path / "old")
    assert (info.images, info.labels, info.dataset) == (0, False, "Toy")


# ---- the grid


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Runs that only record that they were asked for; those in `broken` fail."""
    asked, broken = [], set()

    def note(what, found=None):
        asked.append(what)
        if what in broken:
            raise ValueError(f"{what} is broken")
        return found

    def fake_result(setting, trainer, seed=None, shots=None):
        tests = {name: {"accuracy": 50.0} for name in [*setting.rules.tests, *setting.tested_datasets]}
        made = result.Result(setting.protocol, setting.dataset, trainer, tests, seed, shots)
        return note(" ".join(map(str, (setting.protocol, setting.dataset, trainer, shots, seed))), made)

    monkeypatch.setattr(checks, "check_data", lambda jobs: None)
    monkeypatch.setattr(driver, "_paper_tables", lambda output, name: note(f"tables {name}"))
    monkeypatch.setattr(grid, "boost", lambda setting: note(f"{setting.rules.boosting} {setting.dataset}"))
    monkeypatch.setattr(grid, "untrained", fake_result)
    monkeypatch.setattr(grid, "host_run", fake_result)
    return asked, broken, ["--output", str(tmp_path)]


def is_run(what):
    """Return whether an entry of `asked` is a run with phase 2."""
    return what[-1].isdigit() and not what.startswith(("boosting", "tables"))


def test_grid_of_all_protocols_in_miniature(fake, monkeypatch):
    asked, _, output = fake
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(cluster.Cluster, "run", lambda self, *what: grid.one_by_one(*what))
    assert driver.main("reproduce", ["all", "--miniature", *output]) == 0
    assert len(asked) == len(set(asked)) and asked[-3:] == [
        "tables base2new",
        "tables few_shot",
        "tables cross_dataset",
    ]
    assert [what for what in asked if what.startswith("boosting")] == [
        *("boosting shapes", "boosting shapes_colours", "boosting shapes_forms", "boosting_cross shapes"),
    ]
    assert asked.index("boosting shapes") < asked.index("base2new shapes CasPL None None")
    assert len([what for what in asked if is_run(what)]) == 3 * 4 * 2 * 2 + 3 * 2 * 3 * 2 + 4 * 2


def test_tables_after_a_grid(setting, root, capsys):
    made = setting("few_shot")
    runs.boost(made)
    done = grid.Grid([], made)
    done.jobs = [grid.Job(made, "CasPL_CoOp", 3, 2)]
    done.run()
    driver.report(done, made.output)
    printed = capsys.readouterr()
    assert f"{done.results[0].figures['accuracy']:.2f}" in printed.out.partition("Few-shot classification")[2]
    assert "in the tables" not in printed.err


def test_papers_grid(fake):
    asked, _, output = fake
    assert driver.main("reproduce", ["all", *output]) == 0
    trained = [what for what in asked if is_run(what)]
    assert len(trained) == 11 * 8 * 3 + 11 * 2 * 5 * 3 + 8 * 3
    assert "cross_dataset imagenet CasPL_MaPLe 16 2" in trained and "few_shot dtd CasPL_PromptSRC 8 3" in trained


def test_grid_continues_after_failures_and_lists_them(fake, capsys):
    asked, broken, output = fake
    broken |= {"boosting dtd", "base2new eurosat CoOp 16 2"}
    line = ["base2new", "--datasets", "dtd", "eurosat", "--hosts", "coop", "--seeds", "1", "2", *output]
    assert driver.main("reproduce", line) == 2
    printed = capsys.readouterr()
    assert "error: 2 runs failed" in printed.err
    assert "failed: base2new dtd phase 1: boosting dtd is broken\n" in printed.out
    assert "failed: base2new eurosat CoOp shots 16 seed 2: base2new eurosat CoOp 16 2 is broken\n" in printed.out
    assert "base2new dtd CoOp 16 1" in asked and "base2new eurosat CasPL_CoOp 16 2" in asked
    assert not [what for what in asked if what.startswith("base2new dtd CasPL")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["all", "OPTIM.LRR", "1"], "unknown key 'OPTIM.LRR'"),
        (["base2new", "--cluster", "local", "--jobs", "0"], "--jobs: 0; expected 1 or more"),
        (["base2new", "--cluster", "local", "--slurm", "gpu"], "--slurm: 'gpu'; expected NAME=VALUE"),
        (["base2new", "--cluster", "local", "--slurm", "gpu=1"], "submitit does not accept it"),
        (["base2new", "--cluster", "local", "--slurm", "timeout_min=x"], "submitit does not accept it"),
    ],
)
def test_mistakes_in_the_grid(fake, line, message, capsys):
    assert driver.main("reproduce", [*line, *fake[2]]) == 2
    assert message in capsys.readouterr().err


# ---- jobs in other processes


def test_jobs_run_in_separate_processes_phase_1_first(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(grid_jobs.__file__).parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(cluster, "POLL", 0.05)
    monkeypatch.setattr(sys, "argv", ["driver"])
    here = Prompt(tmp_path / "boosting")
    names = ("CasPL", "broken", grid.BOOST, "host", "killed")
    jobs = [Touch(here, name, number) for number, name in enumerate(names, 1)]
    failures = grid.Failures()
    results = cluster.Cluster("local", 2, tmp_path / "jobs", []).run(jobs, failures)
    assert results == [{"number": 1}, {"number": 4}]
    assert {job.number: str(error) for job, error in failures} == {2: "OSError: no such luck", 5: "5 was not written"}
    pids = {(tmp_path / name).read_text() for name in ("boosting", "1", "4")}
    assert len(pids | {str(os.getpid())}) == 4


def test_each_start_of_a_grid_has_a_fresh_private_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folders = {cluster.Cluster("local", 1, tmp_path, []).folder for _ in range(2)}
    assert len(folders) == 2 and {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}
