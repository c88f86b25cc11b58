"""Settings that used to be ignored, overridden or crash: each kind is rejected or named in one line (issue 14)."""

import re
import subprocess
import sys
import time

import protocol
import pytest
import toy
from children import ALONE, ROOT

from trainers import config
from trainers.__main__ import COMMANDS, main
from trainers.backbones import sizes_of
from trainers.cli import arguments, protocols, train
from trainers.cli.program import guarded
from trainers.config import ConfigError
from trainers.engine import ClipSizes
from trainers.experiments.setup import default_cfg, warn

PUBLISHED = ("ViT-B/16", "ViT-L/14", "ViT-L/14@336px", "RN50", "RN50x64")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pictures, CLIPs and a boosting prompt."""
    root = tmp_path_factory.mktemp("faults")
    protocol.prepare(root)
    train.run(toy.command(root, "CasPL", root / "boost"))
    return root


def rejected(capsys, line, folder):
    """Return the error line of a command that is rejected before anything is written."""
    capsys.readouterr()
    assert guarded(lambda: train.run([str(word) for word in line])) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not folder.exists()
    return error


def warnings_of(caplog, line):
    """Return the warnings that a command logs while its configuration is assembled."""
    caplog.clear()
    warn.cache_clear()
    with caplog.at_level("WARNING"):
        train.setup_cfg(train.parse([str(word) for word in line]))
    return [record.getMessage() for record in caplog.records if record.name.endswith("setup")]


@pytest.mark.parametrize(
    ("trainer", "pairs", "key"),
    [
        (
            "CoOp",
            ["TRAINER.COOP.CTX_INIT", "a photo", "TRAINER.COOP.CSC", "True", "TRAINER.COOP.N_CTX", "2"],
            "COOP.CSC",
        ),
        ("CoOp", ["TRAINER.COOP.CTX_INIT", "a", "TRAINER.COOP.N_CTX", "4"], "COOP.N_CTX"),
        ("CoOp", ["TRAINER.COOP.CTX_INIT", "a", "TRAINER.COOP.N_CTX", "16"], "COOP.N_CTX"),
        ("CoCoOp", ["TRAINER.COCOOP.CTX_INIT", "a photo", "TRAINER.COCOOP.N_CTX", "5"], "COCOOP.N_CTX"),
        ("KgCoOp", ["TRAINER.KGCOOP.CTX_INIT", "a photo", "TRAINER.KGCOOP.N_CTX", "5"], "KGCOOP.N_CTX"),
        ("MaPLe", ["TRAINER.MAPLE.CTX_INIT", "one of many", "TRAINER.MAPLE.N_CTX", "6"], "MAPLE.CTX_INIT"),
        ("PromptSRC", ["TRAINER.PROMPTSRC.CTX_INIT", "a b", "TRAINER.PROMPTSRC.N_CTX_TEXT", "6"], "PROMPTSRC.CTX_INIT"),
        ("CasPL", ["TRAINER.CASPL.CTX_INIT", "a b", "TRAINER.CASPL.N_CTX_TEXT", "6"], "CASPL.CTX_INIT"),
        ("CasPL", ["TRAINER.CASPL.CTX_INIT", "a b", "TRAINER.CASPL.DEPTH_TEXT", "0"], "CASPL.CTX_INIT"),
        ("CasPL", ["TRAINER.CASPL.DEPTH_VISION", "0"], "CASPL.N_CTX_VISION"),
        ("CasPL", ["TRAINER.CASPL.N_CTX_TEXT", "0"], "CASPL.DEPTH_TEXT"),
        ("CasPL", ["TRAINER.CASPL.TEACHER.TEMPLATE", "a {}", "DATASET.TEMPLATE", "b {}"], "DATASET.TEMPLATE"),
        ("CasPL", ["TRAINER.CASPL.TEACHER.RUN", "{run}", "DATASET.TEMPLATE", "b {}"], "DATASET.TEMPLATE"),
        (
            "CasPL",
            ["TRAINER.CASPL.TEACHER.RUNS", "['{run}']", "TRAINER.CASPL.TEACHER.TEMPLATE", "b {}"],
            "TEACHER.TEMPLATE",
        ),
        ("CoOp", ["OPTIM.ADAM_BETA1", "0.5"], "OPTIM.ADAM_BETA1"),
        ("CoOp", ["OPTIM.GAMMA", "0.5"], "OPTIM.GAMMA"),
        ("CoOp", ["OPTIM.WARMUP_CONS_LR", "0.5"], "OPTIM.WARMUP_CONS_LR"),
        ("CoOp", ["INPUT.CUTOUT_N", "2"], "INPUT.CUTOUT_N"),
    ],
)
def test_overridden_setting_is_one_warning_line(root, tmp_path, caplog, trainer, pairs, key):
    (tmp_path / "config.yaml").write_text("TRAINER: {NAME: CoOp}")
    line = toy.command(root, trainer, tmp_path / "run")
    pairs = [word.replace("{run}", str(tmp_path)) for word in pairs]
    found = [text for text in warnings_of(caplog, [*line, *pairs]) if f"{key}: " in text]
    assert len(found) == 1 and " is not used: " in found[0]


@pytest.mark.parametrize("trainer", ["CoOp", "CoCoOp", "MaPLe", "PromptSRC", "CasPL", "ZeroshotCLIP"])
def test_usual_recipe_has_no_warning(root, tmp_path, caplog, trainer):
    assert warnings_of(caplog, toy.command(root, trainer, tmp_path / "run")) == []


def test_published_recipe_of_phase_1_has_no_warning(root, tmp_path, caplog):
    recipe = [
        "--config-file",
        "configs/trainers/CasPL/vit_b16.yaml",
        "DATASET.NAME",
        "Toy",
        "OUTPUT_DIR",
        tmp_path / "run",
    ]
    assert warnings_of(caplog, ["--trainer", "CasPL", *recipe, "SEED", "1"]) == []


def test_transforms_without_normalize_are_one_warning_line(root, tmp_path, caplog):
    line = [*toy.command(root, "CoOp", tmp_path / "run"), "INPUT.TRANSFORMS", "['random_flip']"]
    (found,) = warnings_of(caplog, line)
    assert "INPUT.TRANSFORMS has no 'normalize'" in found


def test_warm_up_beyond_the_last_epoch_is_one_warning_line(root, tmp_path, caplog):
    line = [*toy.command(root, "CoOp", tmp_path / "run"), "OPTIM.WARMUP_EPOCH", "7", "OPTIM.MAX_EPOCH", "6"]
    (found,) = warnings_of(caplog, line)
    assert "OPTIM.WARMUP_EPOCH: 7 is more than OPTIM.MAX_EPOCH, 6" in found


@pytest.mark.parametrize("missing", [True, False])
def test_resume_from_a_folder_without_a_run_is_rejected(root, tmp_path, capsys, missing):
    folder = tmp_path / "nowhere" if missing else root / "toy"
    error = rejected(capsys, [*toy.command(root, "CoOp", tmp_path / "run"), "--resume", folder], tmp_path / "run")
    assert f"RESUME: {folder}; expected the folder of a run" in error and error.count("RESUME") == 1


@pytest.mark.parametrize(
    "pairs",
    [
        ("DATASET.VAL_PERCENT", "0.5"),
        ("DATASET.STL10_FOLD", "3"),
        ("DATALOADER.TRAIN_U.BATCH_SIZE", "3"),
        ("DATALOADER.RETURN_IMG0", "True"),
        ("DATALOADER.K_TRANSFORMS", "2"),
        ("MODEL.HEAD.NAME", "mlp"),
        ("TRAIN.COUNT_ITER", "train_u"),
        ("OPTIM.STAGED_LR", "True"),
        ("INPUT.NO_TRANSFORM", "True"),
        ("TRAINER.CASPL.N_CTX_TEXT", "4"),
    ],
)
def test_key_that_no_code_reads_is_rejected(root, tmp_path, capsys, pairs):
    error = rejected(capsys, [*toy.command(root, "CoOp", tmp_path / "run"), *pairs], tmp_path / "run")
    assert pairs[0] in error and ("CoOp does not read it" in error or "unknown key" in error)


@pytest.mark.parametrize(
    ("trainer", "pairs", "message"),
    [
        ("CoOp", ["OPTIM.MOMENTUM", "5"], "OPTIM.MOMENTUM: 5.0; expected a number 0 or more and below 1"),
        (
            "CoOp",
            ["DATALOADER.TEST.SAMPLER", "SeqDomainSampler"],
            "DATALOADER.TEST.SAMPLER: 'SeqDomainSampler'; expected",
        ),
        ("CoOp", ["INPUT.SIZE", "None"], "INPUT.SIZE: 'None' (the command line); expected a list of 2"),
        ("CoOp", ["OPTIM.SGD_NESTEROV", "True", "OPTIM.MOMENTUM", "0"], "OPTIM.SGD_NESTEROV: True with"),
        (
            "CoOp",
            ["OPTIM.LR_SCHEDULER", "multi_step", "OPTIM.STEPSIZE", "(5, 3)"],
            "OPTIM.STEPSIZE: [5, 3]; expected rising",
        ),
        ("CoOp", ["TEST.FINAL_MODEL", "best_val", "TEST.NO_TEST", "True"], "TEST.FINAL_MODEL: 'best_val' with"),
        ("CoOp", ["MODEL.INIT_WEIGHTS", "nowhere.pt"], "MODEL.INIT_WEIGHTS: nowhere.pt; expected a checkpoint"),
        ("CasPL", ["TRAINER.CASPL.DEPTH_TEXT", "0", "TRAINER.CASPL.DEPTH_VISION", "0"], "no tokens to learn"),
        ("CasPL", ["TRAINER.CASPL.N_CTX_TEXT", "0", "TRAINER.CASPL.N_CTX_VISION", "0"], "no tokens to learn"),
        ("CasPL", ["TRAINER.CASPL.TEACHER.TEMPLATE", "a photo"], "TRAINER.CASPL.TEACHER.TEMPLATE: 'a photo'; expected"),
        (
            "CasPL",
            ["TRAINER.CASPL.CLASSES", "base", "DATASET.SUBSAMPLE_CLASSES", "new"],
            "DATASET.SUBSAMPLE_CLASSES: 'new'",
        ),
        ("MaPLe", ["TRAINER.MAPLE.PROMPT_DEPTH", "4294967296"], "TRAINER.MAPLE.PROMPT_DEPTH: 4294967296; expected"),
        ("PromptSRC", ["TRAINER.PROMPTSRC.GPA_MEAN", "1e6"], "TRAINER.PROMPTSRC.GPA_MEAN: 1000000.0 with GPA_STD"),
        ("MaPLe", ["TRAINER.MAPLE.PROMPT_DEPTH", "9"], "TRAINER.MAPLE.PROMPT_DEPTH: 9; expected at most 3"),
        ("PromptSRC", ["TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION", "9"], "PROMPT_DEPTH_VISION: 9; expected at most 3"),
        ("PromptSRC", ["TRAINER.PROMPTSRC.PROMPT_DEPTH_TEXT", "9"], "PROMPT_DEPTH_TEXT: 9; expected at most 3"),
        ("CasPL", ["TRAINER.CASPL.DEPTH_VISION", "9"], "TRAINER.CASPL.DEPTH_VISION: 9; expected at most 3"),
        ("TCP", ["TRAINER.TCP.LAYER", "9"], "TRAINER.TCP.LAYER: 9; expected at most 2"),
    ],
)
def test_setting_out_of_range_is_one_error_line(root, tmp_path, capsys, trainer, pairs, message):
    error = rejected(capsys, [*toy.command(root, trainer, tmp_path / "run"), *pairs], tmp_path / "run")
    assert message in error


@pytest.mark.parametrize("protocol_name", ["base2new", "few_shot", "cross_dataset"])
def test_phase_2_is_checked_before_phase_1_trains(tmp_path, capsys, protocol_name):
    shots = ["1"] if protocol_name == "few_shot" else []
    line = [
        "shapes",
        *shots,
        "1",
        "--host",
        "maple",
        "--output",
        str(tmp_path / "out"),
        "TRAINER.MAPLE.PROMPT_DEPTH",
        "9",
    ]
    assert protocols.main(protocol_name, line) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: TRAINER.MAPLE.PROMPT_DEPTH: 9; expected at most 2") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_one_message_names_all_keys(root, tmp_path, capsys):
    pairs = ["OPTIM.MOMENTUM", "5", "OPTIM.MAX_EPOCH", "0", "TRAINER.MAPLE.N_CTX", "-3"]
    error = rejected(capsys, [*toy.command(root, "MaPLe", tmp_path / "run"), *pairs], tmp_path / "run")
    assert all(f"{key}: " in error for key in pairs[::2])


@pytest.mark.parametrize(
    ("trainer", "key"),
    [("MaPLe", "PROMPT_DEPTH"), ("PromptSRC", "PROMPT_DEPTH_VISION"), ("CasPL", "DEPTH_VISION")],
)
def test_resnet_with_vision_prompts_is_named(trainer, key):
    cfg = default_cfg()
    cfg.TRAINER.NAME, cfg.MODEL.BACKBONE.NAME = trainer, "RN50"
    (found,) = config.backbone_problems(cfg, sizes_of("RN50"))
    assert found.startswith("MODEL.BACKBONE.NAME: RN50 is a ResNet; expected a ViT") and key in found


def test_sizes_of_published_names_need_no_file():
    assert {name: sizes_of(name).image for name in PUBLISHED} == dict(
        zip(PUBLISHED, (224, 224, 336, 224, 448), strict=True)
    )
    assert sizes_of("shapes-student") == ClipSizes(
        text_width=64, text_layers=2, vision_width=64, vision_layers=3, embedding=64, image=48, context=77
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: " + "[" * 20000 + "]" * 20000, "nested more than 20 deep"),
        ("a: &a [1]\nb: &b [*a, *a]\nc: [*b, *b]\n", "the alias *a in line 2"),
        ("a: &a [*a]\n", "the alias *a"),
        ("OPTIM: {LR: 1}\n" * 10000, "more than 100,000 bytes"),
        ("- 1\n- 2\n", "expected keys and values"),
        ("OPTIM: {LR: !!python/object:os.system [ls]}", "not YAML"),
        ("_BASE_: self.yaml\n", "leads back to the file itself"),
        ("_BASE_: 3\n", "_BASE_: 3; expected the path of another file"),
        ("OPTIM:\n", "unknown key 'OPTIM'"),
        ("\tOPTIM: 3", "not YAML"),
        ("OPTIM: {LR: " + "9" * 5000 + "}", "not YAML"),
        ("OPTIM:\n  LR: 0.1\n  LR: 0.2\n", "the key 'LR' again in line 3"),
        ("OPTIM: {LR: 0.1}\nOPTIM: {MAX_EPOCH: 2}\n", "the key 'OPTIM' again in line 2"),
    ],
)
def test_hostile_yaml_ends_in_seconds_with_one_line(tmp_path, capsys, content, message):
    path = tmp_path / "self.yaml"
    path.write_text(content)
    start = time.monotonic()
    error = rejected(capsys, ["--config-file", path], tmp_path / "run")
    assert str(path) in error and message in error and len(error) < 1000
    assert time.monotonic() - start < 20


def test_chain_of_bases_is_bounded(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.yaml").write_text(f"_BASE_: {(number + 1) % 3}.yaml\n")
    with pytest.raises(ConfigError, match="leads back to the file itself"):
        config.merge_file(default_cfg(), tmp_path / "0.yaml")


def test_kept_configuration_has_only_what_was_used(root, tmp_path):
    train.run(toy.command(root, "CasPL_CoOp", tmp_path / "run", TRAINER__CASPL__CHECKPOINT=root / "boost"))
    kept = dict(config.leaves(config.read_yaml(tmp_path / "run" / "config.yaml")))
    nodes = {key.split(".")[1] for key in kept if key.startswith("TRAINER.")}
    assert nodes == {"NAME", "CASPL", "COOP"}
    assert {key for key in kept if key.startswith("TRAINER.CASPL.")} == {
        "TRAINER.CASPL.CHECKPOINT",
        "TRAINER.CASPL.JOINT",
        "TRAINER.CASPL.TEXT_ORDER",
    }
    assert "OPTIM.ADAM_BETA1" not in kept and "DATASET.VAL_PERCENT" not in kept and "OPTIM.MOMENTUM" in kept


def test_model_dir_that_is_not_a_run_is_named(root, tmp_path, capsys):
    run = tmp_path / "runs" / "seed_1"
    train.run(toy.command(root, "CoOp", run))
    missing = tmp_path / "none"
    assert f"--model-dir: {missing} does not exist" in rejected(
        capsys, ["--eval-only", "--model-dir", missing], missing
    )
    error = rejected(capsys, ["--eval-only", "--model-dir", tmp_path / "runs"], missing)
    assert f"has no config.yaml; expected the folder of a run (did you mean {run}?)" in error
    error = rejected(capsys, ["--eval-only", "--model-dir", run / "prompt_learner"], missing)
    assert f"(did you mean {run}?)" in error
    assert "--model-dir" in rejected(capsys, ["--model-dir", run], missing)
    assert "--load-epoch" in rejected(capsys, ["--load-epoch", "3"], missing)


def test_pairs_are_found_anywhere():
    line = [
        "--datasets",
        "pets",
        "dtd",
        "OPTIM.LR",
        "1",
        "--boost",
        "OPTIM.LR",
        "2",
        "SEED",
        "3",
        "--seeds",
        "1",
        "2",
        "VERBOSE",
        "False",
    ]
    words, pairs = arguments.split_options(line)
    assert words == ["--datasets", "pets", "dtd", "--seeds", "1", "2"]
    assert pairs == {
        "": ["OPTIM.LR", "1", "VERBOSE", "False"],
        "--boost": ["OPTIM.LR", "2", "SEED", "3"],
        "--adapt": [],
    }


def test_value_of_an_option_is_not_a_key():
    args = train.parse(
        ["--output-dir", "RUNS.A", "--root", "DATA.V2", "OPTIM.LR", "1", "--eval-only", "OPTIM.MAX_EPOCH", "2"]
    )
    assert (args.output_dir, args.root, args.eval_only) == ("RUNS.A", "DATA.V2", True)
    assert args.opts == ["OPTIM.LR", "1", "OPTIM.MAX_EPOCH", "2"]


HELP = """
import sys
sys.argv[0] = "caspl"
from trainers.__main__ import COMMANDS, main
for command in COMMANDS:
    try:
        main([command, "--help"])
    except SystemExit as ended:
        assert not ended.code
assert "torch" not in sys.modules
"""


def test_help_of_every_command_imports_no_torch():
    done = subprocess.run([sys.executable, "-c", HELP], env=ALONE, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^usage: caspl (\S+) ", done.stdout, re.M) == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_keeps_examples_indented_and_lines_short(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    lines = capsys.readouterr().out.split("\nconfiguration keys:")[0].splitlines()
    assert not [line for line in lines if line.startswith("caspl ") or len(line) > 128]


@pytest.mark.parametrize("program", ["train.py", "scripts/data.py", "scripts/results.py", "scripts/caspl/convert.py"])
def test_help_of_a_launcher_imports_no_torch(program):
    line = [sys.executable, "-X", "importtime", program, "--help"]
    done = subprocess.run(line, env=ALONE, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "usage: caspl" in done.stdout
    assert not [row for row in done.stderr.splitlines() if row.rpartition("|")[2].strip() == "torch"]
