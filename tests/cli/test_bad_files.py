"""Files from elsewhere: whatever is in them, the message names the file, nothing is executed, nothing is lost."""

import json
import pickle
import zipfile
from pathlib import Path

import protocol
import pytest
import torch
import toy
import yaml
from dassl.engine import build_trainer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from test_tensors import Bomb

from datasets.draw_files import load_draw
from datasets.errors import DatasetError
from datasets.kept_files import KeptFiles
from datasets.splits import check_split, read_split
from trainers import config
from trainers.backbones import BackboneError, load_clip
from trainers.cli import train
from trainers.experiments.result import ResultError
from trainers.experiments.setup import default_cfg
from trainers.method import prompt_file, published
from trainers.method.prompt_file import CheckpointError
from trainers.results.read import read_runs
from trainers.training.checkpoints import load_learner
from trainers.training.resume import ProgressError

FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]
TYPES += [torch.float8_e4m3fn]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pictures, CLIPs, and a run of each phase."""
    root = tmp_path_factory.mktemp("bad")
    protocol.prepare(root)
    train.run(toy.command(root, "CasPL", root / "boost"))
    train.run(toy.command(root, "CoOp", root / "coop"))
    return root


@pytest.fixture(scope="module")
def learner(root):
    """A CoOp's learner."""
    return build_trainer(train.setup_cfg(train.parse(toy.command(root, "CoOp", root / "build")))).model.prompt_learner


def damaged(data):
    """Strategy: `data` cut off, with bytes changed, or with bytes of another file put in."""

    def change(cut, places, more):
        changed = bytearray(data[: len(data) * cut // 100])
        for place, byte in places:
            if changed:
                changed[place % len(changed)] = byte
        return bytes(changed) + more

    places = st.lists(st.tuples(st.integers(0, 1 << 40) | st.integers(0, 400), st.integers(0, 255)), max_size=8)
    return st.builds(change, st.sampled_from([0, 1, 50, 99, 100]), places, st.binary(max_size=20))


def tensors():
    """Strategy: a tensor of any type and of nearly any shape, perhaps with NaN."""
    shapes = st.sampled_from([(), (0,), (4,), (4, 64), (3, 3, 64), (2, 2, 64), (4, 32), (1, 1, 1, 1)])
    return st.builds(
        lambda shape, dtype, value: torch.full(shape, value).to(dtype),
        *(shapes, st.sampled_from(TYPES), st.sampled_from([0.0, 1.0, float("nan"), float("inf")])),
    )


def names_file(error, path):
    """The message names the file."""
    assert str(path) in str(error), error


def attempt(read, path, *expected, keep=None):
    """Read, or fail with one of the expected errors, which names the file; the file stays unchanged.

    Args:
        keep: the file, if `path` is a folder.
    """
    before = Path(keep or path).read_bytes()
    try:
        read(path)
    except expected as error:
        names_file(error, path)
    assert Path(keep or path).read_bytes() == before


# ---- boosting prompts


def test_damaged_boosting_file_is_rejected(root, tmp_path):
    @FEW
    @given(damaged((root / "boost" / "boosting.safetensors").read_bytes()))
    def check(data):
        (tmp_path / "b.safetensors").write_bytes(data)
        attempt(prompt_file.load_boosting, tmp_path / "b.safetensors", CheckpointError)

    check()


def test_arbitrary_boosting_file_is_one_error(root, tmp_path):
    path = tmp_path / "b.safetensors"
    info = prompt_file.load_boosting(root / "boost" / "boosting.safetensors")[1]
    good = {key: json.dumps(value) for key, value in vars(info).items()}
    good |= {"format": "1", "text_depth": "3", "text_tokens": "3", "vision_depth": "2", "vision_tokens": "2"}
    values = st.text(max_size=6) | PLAIN.map(json.dumps)
    clip_model = load_clip(str(root / "student.pt"))

    def use(file):
        loaded = prompt_file.load_boosting(file)
        prompt_file.check_fits(file, *loaded, clip_model.visual, clip_model)

    @FEW
    @given(
        st.dictionaries(st.sampled_from(["text", "vision", "more"]), tensors(), max_size=3),
        st.dictionaries(st.sampled_from(sorted(good)), values, max_size=3),
    )
    def check(content, changed):
        save_file(content, path, metadata=good | changed)
        attempt(use, path, CheckpointError)
        whole = {"text": torch.zeros(3, 3, 64), "vision": torch.zeros(2, 2, 64)}
        save_file(whole, path, metadata=good | changed)
        attempt(use, path, CheckpointError)

    check()


# ---- checkpoints


def test_damaged_checkpoint_is_rejected(root, tmp_path, learner):
    @FEW
    @given(damaged((root / "coop" / "prompt_learner" / "model.pth.tar-1").read_bytes()))
    def check(data):
        path = tmp_path / "model.pth.tar"
        path.write_bytes(data)
        attempt(lambda file: load_learner(learner, file), path, ValueError)
        attempt(published.import_published, path, ValueError)

    check()


def test_arbitrary_checkpoint_is_one_error(root, tmp_path, learner):
    content = st.recursive(
        PLAIN | tensors(), lambda inner: st.dictionaries(st.sampled_from(["state_dict", "ctx", "epoch", "x"]), inner)
    )

    @FEW
    @given(content)
    def check(value):
        path = tmp_path / "model.pth.tar"
        torch.save(value, path)
        attempt(lambda file: load_learner(learner, file), path, ValueError)
        attempt(published.import_published, path, ValueError)
        attempt(load_clip, path, BackboneError)

    check()


def test_arbitrary_published_checkpoint_is_one_error(tmp_path):
    path = tmp_path / "model.pth.tar"
    keys = [published.BOOSTING.layer(tower, block) for block in (0, 1) for tower in ("text", "vision")]
    good = {key: torch.zeros(4, 64) for key in keys}

    @FEW
    @given(st.dictionaries(st.sampled_from(keys), tensors() | PLAIN, min_size=1), PLAIN)
    def check(changed, epoch):
        torch.save({"state_dict": good | changed, "epoch": epoch}, path)
        attempt(published.import_published, path, ValueError)

    check()
    torch.save({"state_dict": good, "epoch": 3}, path)
    assert published.import_published(path)[0].text.shape == (2, 4, 64)
    for value, message in ((torch.full((4, 64), float("nan")), "not finite"), (torch.zeros(4), "of shape")):
        torch.save({"state_dict": good | {keys[0]: value}}, path)
        with pytest.raises(CheckpointError, match=message):
            published.import_published(path)


@pytest.mark.parametrize(
    "pickled", [b"", b"\x80\x04N.", b"garbage", pickle.dumps({"state_dict": [1]}), b"\x80\x02(((((."]
)
def test_arbitrary_pickle_is_one_error(tmp_path, learner, pickled):
    path = tmp_path / "model.pth.tar"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickled)
    attempt(lambda file: load_learner(learner, file), path, ValueError)


@pytest.mark.parametrize("protocol_number", range(2, 6))
def test_pickle_is_not_executed(root, tmp_path, learner, protocol_number):
    trace = tmp_path / "trace"
    path, draw = tmp_path / "model.pth.tar", tmp_path / "toy" / "split_fewshot" / "shot_1-seed_1.pkl"
    torch.save({"state_dict": {"ctx": torch.zeros(4, 64)}, "epoch": Bomb(trace)}, path, pickle_protocol=protocol_number)
    load_learner(learner, path)
    draw.parent.mkdir(parents=True)
    draw.write_bytes(pickle.dumps({"train": [Bomb(trace)]}, protocol=protocol_number))
    with pytest.raises(DatasetError, match="shot_1-seed_1.pkl: not a safe few-shot pickle"):
        load_draw(
            KeptFiles(tmp_path / "toy", tmp_path, "Toy"), "split_fewshot/shot_1-seed_1", {"train": []}, {"train": 1}
        )
    with pytest.raises(BackboneError, match="model.pth.tar"):
        load_clip(str(path))
    run = tmp_path / "run"
    run.mkdir()
    torch.save(Bomb(trace), run / "progress.pt", pickle_protocol=protocol_number)
    with pytest.raises(ProgressError, match="progress.pt"):
        train.run(toy.command(root, "CoOp", run))
    assert not trace.exists()
    pickle.loads(draw.read_bytes())
    assert trace.exists(), "the bomb does not work, so this test shows nothing"


class Scripted(torch.nn.Module):
    """Something that can be archived by TorchScript."""

    def __init__(self):
        super().__init__()
        self.ctx = torch.nn.Parameter(torch.zeros(4, 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.ctx


def test_archive_in_place_of_state_dict_is_rejected(tmp_path, learner):
    path = tmp_path / "model.pth.tar"
    torch.jit.script(Scripted()).save(str(path))
    for read in (lambda file: load_learner(learner, file), published.import_published):
        with pytest.raises(ValueError, match="TorchScript archive") as caught:
            read(path)
        names_file(caught.value, path)
    with pytest.raises(BackboneError, match=r"model\.pth\.tar.*not a CLIP"):
        load_clip(str(path))


@pytest.mark.parametrize("how", ["missing", "more", "scalar", "flat", "empty", "nan", "listed"])
def test_backbone_with_wrong_tensor_is_rejected(root, tmp_path, how):
    path = tmp_path / "clip.pt"
    whole = torch.load(root / "student.pt", weights_only=True)
    keys = ["visual.proj", "visual.conv1.weight", "ln_final.weight", "positional_embedding"]
    for key in keys if how in ("scalar", "empty") else keys[:2]:
        state = dict(whole)
        value = state.pop(key)
        changed = {
            "more": value,
            "scalar": value.sum(),
            "flat": value.flatten()[:5],
            "empty": value.flatten()[:0],
            "nan": torch.full_like(value, float("nan")),
            "listed": value.tolist(),
        }
        if how != "missing":
            state |= {key: value, f"{key}.more": value} if how == "more" else {key: changed[how]}
        torch.save(state, path)
        with pytest.raises(BackboneError) as caught:
            load_clip(str(path))
        names_file(caught.value, path)


# ---- splits and draws


def test_arbitrary_split_file_is_one_error(tmp_path):
    path = tmp_path / "split.json"
    entry = st.tuples(
        st.text(max_size=3), st.integers(-1, 3) | st.text("0123²٣", max_size=2), st.sampled_from(["a", "b"])
    )
    part = st.lists(entry.map(list) | PLAIN, max_size=4)
    splits = st.fixed_dictionaries({"train": part, "val": part, "test": part})

    def read(file):
        check_split(read_split(file), file)

    @FEW
    @given(splits | PLAIN)
    def check(content):
        path.write_text(json.dumps(content))
        attempt(read, path, DatasetError)

    check()

    @FEW
    @given(damaged(json.dumps({"train": [["a.png", 0, "x"]], "val": [], "test": [["b.png", 0, "x"]]}).encode()))
    def check_damage(data):
        path.write_bytes(data)
        attempt(read, path, DatasetError)

    check_damage()


@pytest.mark.parametrize("ending", ["json", "pkl"])
def test_arbitrary_draw_is_one_error(tmp_path, ending):
    (tmp_path / "split_fewshot").mkdir()
    path = tmp_path / "split_fewshot" / f"shot_1-seed_1.{ending}"
    good = {"train": [["a.png", 0, "x"]]}
    data = json.dumps(good).encode() if ending == "json" else pickle.dumps(good)

    @FEW
    @given(
        damaged(data) | PLAIN.map(lambda value: json.dumps(value).encode() if ending == "json" else pickle.dumps(value))
    )
    def check(data):
        path.write_bytes(data)
        kept = KeptFiles(tmp_path, tmp_path, "Toy")
        attempt(
            lambda _: load_draw(kept, "split_fewshot/shot_1-seed_1", {"train": []}, {"train": 1}), path, DatasetError
        )

    check()


# ---- configurations and results


def test_arbitrary_configuration_file_is_one_error(tmp_path):
    path = tmp_path / "c.yaml"
    keys = st.sampled_from(["INPUT", "SIZE", "OPTIM", "LR", "TRAINER", "CASPL", "_BASE_", "DATASET", "NAME"])
    nodes = st.recursive(PLAIN, lambda inner: st.dictionaries(keys, inner, max_size=2))

    @FEW
    @given(nodes.map(yaml.safe_dump) | st.text(max_size=20))
    def check(text):
        path.write_text(text, errors="replace")
        attempt(lambda file: config.merge_file(default_cfg(), file), path, config.ConfigError)

    check()
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(config.ConfigError) as caught:
        config.merge_file(default_cfg(), path)
    names_file(caught.value, path)


DAMAGED_RESULTS = [
    "",
    "{",
    "[]",
    "{}",
    "null",
    '{"boosting": 1}',
    "[" * 100_000,
    "1e999",
    '{"version": 9}',
    "\x00",
    "9" * 9999,
]


@pytest.mark.parametrize("content", DAMAGED_RESULTS, ids=range(len(DAMAGED_RESULTS)))
def test_damaged_result_is_rejected_and_kept(root, tmp_path, content):
    toys = protocol.ToySetting("toy", root, tmp_path)
    path = tmp_path / "result.json"
    path.write_text(content)
    asked = toys.configuration("CoOp", 1, tmp_path)
    with pytest.raises(ResultError, match=r"result\.json: .*expected ") as caught:
        protocol.runs.finished(toys, asked, tmp_path, None)
    assert len(str(caught.value).splitlines()) == 1 and path.read_text() == content


def test_arbitrary_result_is_one_error(tmp_path):
    good = {"protocol": "few_shot", "dataset": "dtd", "trainer": "CasPL", "seed": 1, "shots": 1, "accuracy": 5.0}
    good |= {"version": 2, "evaluations": {"all": {"accuracy": 5.0}}, "ledger": [], "data": {}, "boosting": None}
    path = tmp_path / "result.json"

    @FEW
    @given(st.dictionaries(st.sampled_from(sorted(good)), PLAIN, max_size=3))
    def check(changed):
        path.write_text(json.dumps(good | changed))
        attempt(read_runs, tmp_path, ValueError, keep=path)

    check()

    @FEW
    @given(damaged(json.dumps(good).encode()))
    def check_damage(data):
        path.write_bytes(data)
        attempt(read_runs, tmp_path, ValueError, keep=path)

    check_damage()
