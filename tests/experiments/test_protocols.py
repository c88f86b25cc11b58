"""The protocols and their grid, on the toys: recipes, results, ledgers, failures, and jobs in other processes."""

import functools
import json
import os
import sys
from pathlib import Path

import protocol
import pytest
import toy
from dassl.data.datasets import DATASET_REGISTRY
from grid_jobs import Prompt, Touch
from safetensors import safe_open
from safetensors.torch import save_file

from trainers.cli import protocols as driver
from trainers.cli import train
from trainers.config import ConfigError
from trainers.experiments import cluster, grid, protocols, recipes, runs
from trainers.method import prompt_file as checkpoint
from trainers.method.boosting import CasPL
from trainers.training import provenance as ledger


@DATASET_REGISTRY.register()
class ToyTarget(toy.Toy):
    """Another dataset: the first four classes."""

    def read(self, root):
        """See Toy."""
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
    monkeypatch.setattr(runs, "dataset_file", lambda name: str(root / f"{name}.yaml"))
    return lambda name: Setting("toy", root, root / "output", [], name, ["toy_target"], epochs=1)


class Setting(protocol.ToySetting):
    """The toys, on which zero-shot CLIP can be tested on a target, too."""

    def arguments(self, trainer, seed, folder, dataset=""):
        """See `runs.Setting`."""
        line = super().arguments(trainer, seed, folder)
        return [*line, "DATASET.NAME", "ToyTarget"] if dataset else line


# ---- recipes


def configuration(name, dataset, trainer, *options):
    """What a run in a protocol is configured with."""
    setting = runs.Setting(dataset, Path("data"), Path("out"), list(options), name)
    return train.setup_cfg(train.parse([*setting.arguments(trainer, 1, Path("out")), *setting.options_for(trainer)]))


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
    ],
)
def test_what_protocols_and_datasets_change_in_a_recipe(name, dataset, trainer, expected):
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
def test_the_other_hosts_recipes(name, trainer, keys, expected):
    cfg = configuration(name, "imagenet", trainer)
    node = cfg.TRAINER[trainer.removeprefix("CasPL_").upper()]
    assert (*(node[key] for key in keys), cfg.OPTIM.MAX_EPOCH, cfg.OPTIM.LR) == expected


def test_an_option_of_the_command_line_wins_over_the_recipe():
    cfg = configuration("few_shot", "dtd", "PromptSRC", "OPTIM.MAX_EPOCH", "7")
    assert cfg.OPTIM.MAX_EPOCH == 7 and cfg.TRAINER.PROMPTSRC.GPA_MEAN == 45


def test_changes_speak_of_datasets_that_there_are():
    for name, dataset, _ in recipes._BY_DATASET:
        assert name in protocols.PROTOCOLS and runs.dataset_name(dataset)
    for dataset in protocols.ELEVEN + protocols.SHIFTED:
        assert runs.dataset_name(dataset)
    assert len(protocols.targets_of("imagenet")) == 14 and "imagenet" not in protocols.targets_of("imagenet")


# ---- results


@pytest.mark.parametrize(
    ("name", "figures"),
    [("few_shot", {"accuracy"}), ("cross_dataset", {"accuracy", "targets"}), ("base2new", {"base", "new", "hm"})],
)
def test_results_of_all_protocols(setting, name, figures):
    made = setting(name)
    results = [
        runs.untrained(made, "ZeroshotCLIP"),
        runs.untrained(made, "CasPL"),
        runs.host_run(made, "CoOp", 3, 2),
        runs.host_run(made, "CasPL_CoOp", 3, 2),
    ]
    expected = {"protocol", "dataset", "trainer", "host", "seed", "shots", "seconds", "boosting", "configuration"}
    folders = ["ZeroshotCLIP", "CasPL", "CoOp/shots_2/seed_3", "CasPL_CoOp/shots_2/seed_3"]
    for result, folder in zip(results, folders, strict=True):
        kept = json.loads((made.output / name / "toy" / folder / "result.json").read_text())
        assert kept == json.loads(json.dumps(result)) and (kept["protocol"], kept["dataset"]) == (name, "toy")
        assert set(kept) == expected | {"seeds", "versions", "ledger"} | figures
        assert kept["seed"] == (3 if "seed" in folder else None) and kept["shots"] == (2 if "seed" in folder else None)
        assert (kept["host"] == "CoOp") == ("CoOp" in folder) and (kept["boosting"] is None) == ("CasPL" not in folder)
        if name == "cross_dataset":
            assert list(kept["targets"]) == ["toy_target"] and 0 <= kept["targets"]["toy_target"] <= 100
    assert [[seen["phase"] for seen in result["ledger"]] for result in results] == [
        *([], ["boosting"], ["adapting"]),
        ["boosting", "adapting"],
    ]
    assert [runs.untrained(made, "CasPL"), runs.host_run(made, "CasPL_CoOp", 3, 2)] == [results[1], results[3]]
    assert grid.tables(results, "github", spread=True).count("\n") == 5


def test_the_boosting_prompt_alone_is_tested_on_all_classes_whatever_it_was_trained_on(setting, root, tmp_path):
    made = setting("few_shot")
    made.output = tmp_path
    train.run(toy.command(root, "CasPL", made.boosting_dir, TRAINER__CASPL__CLASSES="base"))
    result = runs.untrained(made, "CasPL")
    assert result["ledger"][0]["classes"] == "base"
    tests = (made.boosting_dir / "log.txt").read_text().split("Evaluate on the *test* set")
    assert "* total: 9" in tests[1] and "* total: 18" in tests[2]  # 3 and 6 classes of 3 test images


def test_a_target_is_tested_with_its_own_classes_and_nothing_is_drawn_from_it(setting, root):
    made = setting("cross_dataset")
    folder = made.folder("CoOp", 3, 2)
    result = runs.host_run(made, "CoOp", 3, 2)
    again = train.run(
        ["--eval-only", "--model-dir", str(folder), "DATASET.NAME", "ToyTarget", "DATASET.NUM_SHOTS", "-1"]
    )
    assert result["targets"] == {"toy_target": again}
    assert [path.name for path in (root / "toy" / "split_fewshot").iterdir() if "shot_16" in path.name] == []
    assert "* total: 12" in (folder / "log.txt").read_text()  # 4 classes of 3 test images


# ---- which data went where


@pytest.mark.parametrize(("classes", "number"), [("all", 6), ("base", 3)])
def test_the_ledger_of_both_phases(root, tmp_path, classes, number):
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


def test_phase_1_cannot_read_a_label(root, tmp_path, monkeypatch):
    loss = CasPL.compute_loss

    def reading(self, batch):
        batch["label"]
        return loss(self, batch)

    monkeypatch.setattr(CasPL, "compute_loss", reading)
    with pytest.raises(KeyError, match="label"):
        train.run(toy.command(root, "CasPL", tmp_path / "run"))


def test_a_boosting_file_of_before_the_ledger(root, tmp_path):
    file = root / "output" / "boosting" / "toy" / "boosting.safetensors"
    assert checkpoint.read_info(file).images == 24
    with safe_open(file, framework="pt") as opened:
        metadata = {key: value for key, value in opened.metadata().items() if key not in ("images", "labels")}
        save_file({key: opened.get_tensor(key) for key in opened.keys()}, tmp_path / "old", metadata)  # noqa: SIM118
    info = checkpoint.read_info(tmp_path / "old")
    assert (info.images, info.labels, info.dataset) == (0, False, "Toy")


# ---- the grid


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Runs that only note that they were asked for; what is in `broken` fails."""
    asked, broken = [], set()

    def note(what, result=None):
        asked.append(what)
        if what in broken:
            raise ValueError(f"{what} is broken")
        return result

    figures = {"base": 50.0, "new": 40.0, "hm": 45.0, "accuracy": 60.0, "targets": {"a": 1.0, "b": 2.0}, "seconds": 1}

    def result(setting, trainer, seed=None, shots=None):
        head = {"protocol": setting.protocol, "dataset": setting.dataset, "trainer": trainer, "shots": shots}
        return note(" ".join(map(str, (setting.protocol, setting.dataset, trainer, shots, seed))), head | figures)

    monkeypatch.setattr(driver, "_paper_tables", lambda output, names: note(f"tables {' '.join(names)}"))
    monkeypatch.setattr(grid, "boost", lambda setting: note(f"{setting.rules.boosting} {setting.dataset}"))
    monkeypatch.setattr(grid, "untrained", result)
    monkeypatch.setattr(grid, "host_run", result)
    return asked, broken, ["--output", str(tmp_path)]


def test_the_grid_of_all_protocols_in_miniature(fake, capsys, monkeypatch):
    asked, _, places = fake
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(cluster.Cluster, "run", lambda self, *what: grid.one_by_one(*what))
    driver.main(["reproduce", "all", "--miniature", *places])
    assert len(asked) == len(set(asked)) and asked[-1] == "tables base2new few_shot cross_dataset"
    assert [what for what in asked if what.startswith("boosting")] == [
        *("boosting shapes", "boosting shapes_colours", "boosting shapes_forms", "boosting_cross shapes"),
    ]
    assert asked.index("boosting shapes") < asked.index("base2new shapes CasPL None None")
    trained = [what for what in asked if what[-1].isdigit() and not what.startswith("boosting")]
    assert len(trained) == 3 * 4 * 2 * 2 + 3 * 2 * 3 * 2 + 4 * 2
    assert "CasPL_PromptSRC, 4 shots" in capsys.readouterr().out


def test_the_tables_behind_a_grid(setting, root, capsys):
    made = setting("few_shot")
    runs.boost(made)
    job = grid.Job(made, "CasPL_CoOp", 3, 2)
    done = grid.Grid([], made.data, made.output, [])
    done.jobs = [job]
    done.run()
    done.report(functools.partial(driver._paper_tables, made.output))
    said = capsys.readouterr().out
    assert f"{done.results[0]['accuracy']:.2f}" in said.partition("Few-shot learning of all classes, toy")[2]
    assert said.count("CasPL_CoOp") > 1 and "in the tables" not in said


def test_the_papers_grid(fake):
    asked, _, places = fake
    driver.main(["reproduce", "all", *places])
    trained = [what for what in asked if what[-1].isdigit() and not what.startswith("boosting")]
    assert len(trained) == 11 * 8 * 3 + 11 * 2 * 5 * 3 + 8 * 3
    assert "cross_dataset imagenet CasPL_MaPLe 16 2" in trained and "few_shot dtd CasPL_PromptSRC 8 3" in trained


def test_a_grid_goes_on_after_failures_and_lists_them(fake, capsys):
    asked, broken, places = fake
    broken |= {"boosting dtd", "base2new eurosat CoOp 16 2"}
    line = ["reproduce", "base2new", "--datasets", "dtd", "eurosat", "--hosts", "coop", "--seeds", "1", "2", *places]
    with pytest.raises(ConfigError, match="2 runs failed"):
        driver.main(line)
    said = capsys.readouterr().out
    assert "failed: base2new dtd phase 1: boosting dtd is broken\n" in said
    assert "failed: base2new eurosat CoOp shots 16 seed 2: base2new eurosat CoOp 16 2 is broken\n" in said
    assert "base2new dtd CoOp 16 1" in asked and "base2new eurosat CasPL_CoOp 16 2" in asked
    assert not [what for what in asked if what.startswith("base2new dtd CasPL")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["reproduce", "all", "OPTIM.LRR", "1"], "there is no key 'OPTIM.LRR'"),
        (["reproduce", "base2new", "--cluster", "local", "--jobs", "0"], "--jobs is 0, expected 1 or more"),
        (["reproduce", "base2new", "--cluster", "local", "--slurm", "gpu"], "--slurm 'gpu' is no NAME=VALUE"),
        (["reproduce", "base2new", "--cluster", "local", "--slurm", "gpu=1"], "submitit refuses"),
        (["few_shots", "shapes"], "there is no protocol 'few_shots'"),
    ],
)
def test_mistakes(fake, line, message):
    with pytest.raises(ValueError, match=message):
        driver.main(line[:2] + fake[2] + line[2:] if line[0] == "reproduce" else line)


# ---- jobs in other processes


def test_jobs_run_in_processes_of_their_own_phase_1_first(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(cluster, "POLL", 0.05)
    monkeypatch.setattr(sys, "argv", ["driver"])
    here = Prompt(tmp_path / "boosting")
    jobs = [Touch(here, "CasPL", 1), Touch(here, "broken", 2), Touch(here, grid.BOOST, 3), Touch(here, "host", 4)]
    failures = grid.Failures()
    results = cluster.Cluster("local", 2, tmp_path / "jobs", []).run(jobs, failures)
    assert results == [{"number": 1}, {"number": 4}]
    assert [(job.number, str(error)) for job, error in failures] == [(2, "OSError: no such luck")]
    pids = {(tmp_path / name).read_text() for name in ("boosting", "1", "4")}
    assert len(pids | {str(os.getpid())}) == 4
