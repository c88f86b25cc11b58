"""Nothing happens in silence: what is not read is refused, what falls short is said, and weights are read safely everywhere."""

import ast

import protocol
import pytest
import toy
from conftest import ROOT

from trainers import config
from trainers.cli import train
from trainers.cli.program import guarded
from trainers.config import ConfigError
from trainers.experiments.setup import default_cfg

LOADERS = {  # whatever can execute what is in a file, and where it may be named
    "pickle.load": [],
    "pickle.loads": [],
    "pickle.Unpickler": ["datasets/draw_files.py", "trainers/storage/tensors.py"],  # bases of restricted ones
    "torch.load": [],  # unsafe in some supported versions of PyTorch, even with weights_only=True
    "torch.jit.load": [],
    "numpy.load": [],
    "np.load": [],
    "joblib.load": [],
    "shelve.open": [],
    "yaml.load": [],
    "yaml.unsafe_load": [],
    "torch.hub.load": [],
    "eval": [],
    "exec": [],
}
SOURCES = [
    path
    for folder in ("datasets", "scripts", "third_party", "trainers")
    for path in sorted((ROOT / folder).rglob("*.py"))
] + [ROOT / "train.py", ROOT / "setup.py"]


def dotted(node):
    """The name in `a.b.c`, or ""."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def unsafe(code, path=""):
    """What a source file has that could execute what it reads."""
    found = []
    for node in ast.walk(ast.parse(code)):
        name = dotted(node) if isinstance(node, ast.Attribute) else ""
        if isinstance(node, ast.Call):
            if dotted(node.func) in ("eval", "exec"):
                name = dotted(node.func)
        if name in LOADERS and path not in LOADERS[name]:
            found.append((node.lineno, name))
        if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "torch.serialization", "marshal", "dill"):
            found.append((node.lineno, f"from {node.module}"))
        if isinstance(node, ast.ImportFrom) and node.module == "torch" and "load" in [a.name for a in node.names]:
            found.append((node.lineno, "from torch import load"))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_weights_are_read_without_executing(path):
    assert unsafe(path.read_text(), str(path.relative_to(ROOT))) == []


@pytest.mark.parametrize(
    "code",
    [
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "torch.load(f, weights_only=True)",
        "read = torch.load",
        "pickle.load(f)",
        "pickle.loads(b)",
        "from pickle import load",
        "from torch import load",
        "class A(pickle.Unpickler): pass",
        "read = pickle.load",
        "eval('1')",
    ],
)
def test_search_finds_unsafe_loads(code):
    assert unsafe(code)
    assert not unsafe("torch.save(f)")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pictures and CLIPs."""
    root = tmp_path_factory.mktemp("silent")
    protocol.prepare(root)
    return root


@pytest.mark.parametrize(
    ("trainer", "key", "value", "message"),
    [
        (
            "CoOp",
            "TRAINER.COCOOP.N_CTX",
            5,
            "TRAINER.COCOOP.N_CTX: 5 is set, but CoOp does not read it; .*TRAINER.COOP.N_CTX",
        ),
        ("CasPL_CoOp", "TRAINER.MAPLE.N_CTX", 5, "TRAINER.MAPLE.N_CTX: 5 is set, but CasPL_CoOp does not read it"),
        ("CasPL", "TRAINER.COOP.N_CTX", 5, "but CasPL does not read it; .*TRAINER.CASPL.N_CTX_"),
        ("ZeroshotCLIP", "TRAINER.CASPL.N_CTX_TEXT", 5, "but ZeroshotCLIP does not read it"),
        ("CoOp", "TRAINER.COOP.NCTX", 5, "unknown key 'TRAINER.COOP.NCTX': did you mean TRAINER.COOP.N_CTX"),
        ("CoOp", "OPTIM.LEARNING_RATE", 5, "unknown key 'OPTIM.LEARNING_RATE'"),
    ],
)
def test_unread_key_is_rejected(root, tmp_path, trainer, key, value, message):
    line = toy.command(root, trainer, tmp_path / "run")
    with pytest.raises(ConfigError, match=message):
        train.run([*line, key, str(value)])
    nodes = key.split(".")
    (tmp_path / "c.yaml").write_text(
        "".join(f"{'  ' * i}{n}:\n" for i, n in enumerate(nodes[:-1])) + f"    {nodes[-1]}: {value}"
    )
    with pytest.raises(ConfigError, match=message):
        train.run(["--config-file", str(tmp_path / "c.yaml"), *line])
    assert not (tmp_path / "run").exists()


def test_protocol_option_that_no_trainer_reads_is_rejected(root, tmp_path):
    setting = protocol.ToySetting("toy", root, tmp_path, ["TRAINER.MAPLE.N_CTX", "3", "OPTIM.LR", "0.1"])
    with pytest.raises(ConfigError, match="TRAINER.MAPLE.N_CTX: set, but none of CasPL, CasPL_CoOp reads it"):
        setting.check_options(["CasPL", "CasPL_CoOp"])
    setting.check_options(["CasPL", "MaPLe"])
    assert setting.options_for("CasPL_CoOp") == ["OPTIM.LR", "0.1"]
    assert setting.options_for("MaPLe") == setting.options


@pytest.mark.parametrize("trainer", ["CasPL", "CoOp", "PromptSRC"])
def test_evaluating_without_a_checkpoint_fails(root, tmp_path, trainer, capsys):
    (tmp_path / "run").mkdir()
    line = toy.command(root, trainer, tmp_path / "out", "--eval-only", "--model-dir", str(tmp_path / "run"))
    assert guarded(lambda: train.run(line)) == 2
    assert f"error: {tmp_path / 'run'}" in capsys.readouterr().err


def test_fewer_images_than_shots_are_logged(root, tmp_path):
    for place in ("drawn", "read"):
        train.run(toy.command(root, "ZeroshotCLIP", tmp_path / place, DATASET__NUM_SHOTS=9))
        log = (tmp_path / place / "log.txt").read_text()
        assert '6 classes have fewer than 9 train images, so all of them are used: "red_fox" (4), "tree" (4)' in log
        assert '6 classes have fewer than 4 val images, so all of them are used: "red_fox" (2)' in log
        assert ("Loaded the few-shot draw" in log) == (place == "read")


def test_loading_logs_its_source(root, tmp_path):
    train.run(toy.command(root, "CasPL", tmp_path / "boost"))
    line = toy.command(root, "CasPL_CoOp", tmp_path / "run", TRAINER__CASPL__CHECKPOINT=tmp_path / "boost")
    train.run(line)
    train.run(["--eval-only", "--model-dir", str(tmp_path / "run")])
    log = (tmp_path / "run" / "log.txt").read_text()
    boosting = tmp_path / "boost" / "boosting.safetensors"
    assert f"Cascaded with {boosting} (Toy): 3 text x 3, 2 vision x 2 tokens, boosting_first" in log
    assert f"Loaded CLIP {root / 'student.pt'}: ViT 3 x 64, 16 px" in log
    assert f"Loaded 1 tensors (epoch 1) from {tmp_path / 'run' / 'prompt_learner' / 'model.pth.tar-1'}" in log


def test_value_equal_to_default_is_not_a_difference():
    ours, theirs = default_cfg(), default_cfg()
    assert config.differing(ours, theirs) == []
    ours.OPTIM.LR = 0.5
    assert config.differing(ours, theirs) == ["OPTIM.LR"]
