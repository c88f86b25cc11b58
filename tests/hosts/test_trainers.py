"""Every trainer on toys: what it learns, what it leaves alone, and that a saved run gives the same logits again."""

import json
import logging
import os
import random
import subprocess
import sys

import children
import pytest
import torch
import toy
from conftest import ROOT
from dassl.data.transforms import build_transform
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.utils import read_image, set_random_seed
from safetensors.torch import load_file

import trainers
from trainers.backbones import load_clip
from trainers.cli import train
from trainers.config import ConfigError, keep_config
from trainers.engine import precision
from trainers.hosts.promptsrc import gaussian_weights
from trainers.method import prompt_file

# Trainer -> the name its learner is registered under, and the documented trainables with their shapes.
HOSTS = {
    "CoOp": ("prompt_learner", {"ctx": (4, 64)}),
    "CoCoOp": (
        "prompt_learner",
        {
            "ctx": (4, 64),
            "meta_net.linear1.weight": (2, 32),
            "meta_net.linear1.bias": (2,),
            "meta_net.linear2.weight": (64, 2),
            "meta_net.linear2.bias": (64,),
        },
    ),
    "MaPLe": (
        "MultiModalPromptLearner",
        {
            "ctx": (2, 64),
            "proj.weight": (64, 64),
            "proj.bias": (64,),
            "compound_prompts_text.0": (2, 64),
            "compound_prompt_projections.0.weight": (64, 64),
            "compound_prompt_projections.0.bias": (64,),
        },
    ),
    "PromptSRC": ("VLPromptLearner", {"text": (2, 4, 64), "vision": (3, 4, 64)}),
}
LEARNING = {"CasPL": ("CasPL", {"text": (3, 3, 64), "vision": (2, 2, 64)})}
LEARNING |= HOSTS | {f"CasPL_{host}": entry for host, entry in HOSTS.items()}
BASE, NEW = {"DATASET__SUBSAMPLE_CLASSES": "base"}, {"DATASET__SUBSAMPLE_CLASSES": "new"}


def build(arguments):
    """The trainer of a command line of train.py, built and not run."""
    cfg = train.setup_cfg(train.parse(arguments))
    set_random_seed(cfg.SEED)
    return build_trainer(cfg)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Toy data, toy CLIPs, and a boosting prompt that phase 1 trained on them."""
    root = tmp_path_factory.mktemp("toys")
    toy.save_clip(root / "student.pt")
    toy.save_clip(root / "teacher.pt", toy.TEACHER, seed=4)
    train.run(toy.command(root, "CasPL", root / "boost"))
    return root


def arguments(root, trainer, folder, *flags, **more):
    """Its command line: the wrappers get the boosting prompt, all but phase 1 the base classes."""
    if trainer.startswith("CasPL_") and "--eval-only" not in flags:
        more = {"TRAINER__CASPL__CHECKPOINT": root / "boost"} | more
    if trainer != "CasPL":
        more = BASE | more
    return toy.command(root, trainer, folder, *flags, **more)


@pytest.fixture(scope="module")
def trained(root):
    """One epoch of every trainer that learns; {trainer: (trainer object, everything's weights before training)}."""
    runs = {}
    for trainer in LEARNING:
        built = build(arguments(root, trainer, root / trainer))
        keep_config(built.cfg, root / trainer / "config.yaml")
        before = {key: value.clone() for key, value in built.model.state_dict().items()}
        built.train()
        runs[trainer] = (built, before)
    return runs


@pytest.mark.parametrize("name", LEARNING)
def test_only_documented_parameters_are_trained(trained, name):
    trainer, before = trained[name]
    registered, documented = LEARNING[name]
    assert trainer.get_model_names() == [registered]
    learner = trainer._models[registered]
    assert {key: tuple(p.shape) for key, p in learner.named_parameters()} == documented
    wanting = {id(p) for p in trainer.model.parameters() if p.requires_grad}
    assert wanting == {id(p) for p in learner.parameters()}
    assert wanting == {id(p) for group in trainer.optim.param_groups for p in group["params"]}
    learned = {id(p) for p in learner.parameters()}
    for key, value in trainer.model.named_parameters():
        assert torch.equal(value, before[key]) != (id(value) in learned), key


@pytest.mark.parametrize("host", HOSTS)
def test_boosting_prompt_stays_frozen_and_in_eval_mode(trained, root, host):
    trainer, _ = trained[f"CasPL_{host}"]
    file = load_file(root / "boost" / prompt_file.FILE_NAME)
    group = trainer.model.boosting
    assert torch.equal(group.text, file["text"]) and torch.equal(group.vision, file["vision"])
    trainer.model.train()
    assert not group.training and not group.text.requires_grad


@pytest.mark.parametrize("host", HOSTS)
def test_removing_boosting_prompt_restores_host(trained, root, host):
    wrapped, _ = trained[f"CasPL_{host}"]
    plain = build(arguments(root, host, root / "plain"))
    plain.model.prompt_learner.load_state_dict(wrapped.model.prompt_learner.state_dict())
    images = next(iter(wrapped.test_loader))["img"]
    group = wrapped.model.boosting
    with torch.no_grad():
        cascaded = wrapped.model(images)
        wrapped.model.cascade(None)
        assert torch.equal(wrapped.model(images), plain.model(images))
        wrapped.model.cascade(group, "boosting_first")
        assert torch.equal(wrapped.model(images), cascaded)
    assert (cascaded - plain.model(images)).abs().max() > 1e-3


def test_zero_shot_matches_stock_clip(root):
    trainer = build(arguments(root, "ZeroshotCLIP", root / "zero"))
    import clip

    stock = load_clip(str(root / "student.pt"))
    images = next(iter(trainer.test_loader))["img"]
    words = clip.tokenize([f"a photo of a {name.replace('_', ' ')}." for name in toy.NAMES[:3]])
    with torch.no_grad():
        torch.testing.assert_close(trainer.model_inference(images), stock(images, words)[0], atol=1e-4, rtol=0)


FRESH = """
import json, sys, torch
import trainers, toy
from trainers.cli import train
from trainers.config import keep_config
from dassl.engine import build_trainer
for name, arguments in json.loads(sys.argv[1]).items():
    args = train.parse(arguments)
    trainer = build_trainer(train.setup_cfg(args))
    trainer.load_model(args.model_dir, args.load_epoch)
    trainer.set_model_mode("eval")
    with torch.no_grad():
        torch.save(trainer.model_inference(next(iter(trainer.test_loader))["img"]), f"{args.model_dir}/logits.pt")
"""


def test_load_model_of_no_folder_loads_nothing(trained):
    """LASP's train.py calls it so before it trains; the empty --model-dir is rejected instead."""
    trainer, _ = next(iter(trained.values()))
    (model,) = (trainer._models[name] for name in trainer.get_model_names())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer.load_model(None, 10)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(FileNotFoundError, match="--model-dir: not given"):
        trainer.load_model("")


def test_saved_run_gives_same_logits_in_new_process_on_other_classes(trained, root):
    jobs, expected = {}, {}
    for name, (trainer, _) in trained.items():
        jobs[name] = ["--eval-only", "--model-dir", str(root / name), "DATASET.SUBSAMPLE_CLASSES", "new"]
        more = NEW | {"TRAINER__CASPL__CHECKPOINT": root / "boost"}
        other = build([*arguments(root, name, root / "other", **more), "--eval-only"])
        registered = trainer.get_model_names()[0]
        other._models[registered].load_state_dict(trainer._models[registered].state_dict())
        other.set_model_mode("eval")
        with torch.no_grad():
            expected[name] = other.model_inference(next(iter(other.test_loader))["img"])
    subprocess.run(
        [sys.executable, "-c", FRESH, json.dumps(jobs)], check=True, env=os.environ | {"PYTHONPATH": children.PATH}
    )
    for name, logits in expected.items():
        assert logits.shape[1] == 3
        assert torch.equal(torch.load(root / name / "logits.pt", weights_only=True), logits), name


def test_phase_1_never_reads_a_label(root, tmp_path):
    toy.draw(tmp_path / "toy")
    files = sorted(path.name for path in (tmp_path / "toy").glob("train_*"))
    labels = [int(name.split("_")[1]) for name in files]
    random.Random(5).shuffle(labels)
    (tmp_path / "toy" / "labels.json").write_text(json.dumps(dict(zip(files, labels, strict=True))))
    more = {"MODEL__BACKBONE__NAME": root / "student.pt", "TRAINER__CASPL__TEACHER__BACKBONE": root / "teacher.pt"}
    train.run(toy.command(tmp_path, "CasPL", tmp_path / "boost", **more))
    ours, permuted = (load_file(folder / "boost" / prompt_file.FILE_NAME) for folder in (root, tmp_path))
    assert all(torch.equal(ours[tower], permuted[tower]) for tower in ("text", "vision"))


def test_phase_1_reads_no_label_from_a_batch(root):
    class Sealed(dict):
        def __getitem__(self, key):
            assert key == "img", f"phase 1 read {key!r}"
            return super().__getitem__(key)

    trainer = build(arguments(root, "CasPL", root / "sealed"))
    trainer.num_batches, trainer.batch_idx = 2, 0
    loss = trainer.forward_backward(Sealed(next(iter(trainer.train_loader_x))))["loss"]
    assert loss > 0


def test_phase_1_on_base_classes(root, tmp_path):
    train.run(arguments(root, "CasPL", tmp_path, TRAINER__CASPL__CLASSES="base"))
    info = prompt_file.read_info(tmp_path / prompt_file.FILE_NAME)
    assert (info.classes, info.class_names) == ("base", toy.NAMES[:3])
    with pytest.raises(ConfigError, match="SUBSAMPLE_CLASSES: 'new'.*TRAINER.CASPL.CLASSES"):
        train.run(arguments(root, "CasPL", tmp_path / "x", **NEW))


def test_same_seed_gives_same_bits(trained, root, tmp_path):
    again = build(arguments(root, "CasPL_PromptSRC", tmp_path))
    again.train()
    first = trained["CasPL_PromptSRC"][0]._models["VLPromptLearner"].state_dict()
    assert all(torch.equal(value, first[key]) for key, value in again._models["VLPromptLearner"].state_dict().items())


def test_cocoop_takes_any_batch_size(root):
    trainer = build(arguments(root, "CasPL_CoCoOp", root / "batches"))
    images = next(iter(trainer.test_loader))["img"][:5]
    with torch.no_grad():
        each = torch.cat([trainer.model(image[None]) for image in images])
        torch.testing.assert_close(trainer.model(images), each, atol=1e-4, rtol=0)


def test_class_features_are_cached_until_a_parameter_changes(root, monkeypatch):
    import trainers.engine.model as module

    calls = []
    monkeypatch.setattr(module, "encode_text", lambda *a: calls.append(1) or encode_text(*a))
    from trainers.engine import encode_text

    model = build(arguments(root, "CasPL_CoOp", root / "cached")).model
    images = torch.zeros(1, 3, 16, 16)
    with torch.no_grad():
        model(images), model(images)
        assert len(calls) == 1
        model.prompt_learner.ctx += 0.1
        changed = model(images)
        assert len(calls) == 2
        model.cascade(None)
        model(images)
    assert len(calls) == 3
    assert model(images).grad_fn is not None and len(calls) == 4
    assert changed.shape == (1, 3)


def test_promptsrc_gaussian_weights_match_published():
    for case in json.loads((ROOT / "tests" / "golden" / "toolbox" / "gpa_weights.json").read_text()):
        ours = gaussian_weights(case["epochs"], case["mean"], case["std"])
        torch.testing.assert_close(ours, torch.tensor(case["weights"], dtype=torch.float64), atol=0, rtol=1e-9)


def test_promptsrc_final_prompts_are_weighted_sum_of_epochs(root, tmp_path, monkeypatch):
    trainer = build(arguments(root, "PromptSRC", tmp_path, OPTIM__MAX_EPOCH=3, TRAINER__PROMPTSRC__GPA_MEAN=2))
    seen = []
    learner = trainer.model.prompt_learner
    monkeypatch.setattr(
        learner, "accumulate", lambda w, add=learner.accumulate: (seen.append(learner.text.detach().clone()), add(w))
    )
    trainer.train()
    weights = [0.274068619061197, 0.45186276187760605, 0.274068619061197]  # gpa_weights.json: 3 epochs, mean 2, std 1
    torch.testing.assert_close(learner.text.detach(), sum(w * t for w, t in zip(weights, seen, strict=True)))
    assert (learner.text - seen[-1]).norm() > 0


@pytest.mark.parametrize("name", ["bf16", "fp16", "amp"])
@pytest.mark.parametrize("trainer", [*HOSTS, *(f"CasPL_{host}" for host in HOSTS)])
def test_half_precision_is_close_to_float32(trained, root, trainer, name, monkeypatch):
    """Logits are 100 times a cosine, and span about 10: within 0.1 with float16's 11 bits, within 1 with bfloat16's 8."""
    monkeypatch.setattr(precision, "cpu_computes", lambda dtype: True)
    exact, _ = trained[trainer]
    node = trainer.removeprefix("CasPL_").upper()
    half = build(arguments(root, trainer, root / "half", **{f"TRAINER__{node}__PREC": name}))
    learner = half._models[half.get_model_names()[0]]
    learner.load_state_dict(exact._models[half.get_model_names()[0]].state_dict())
    assert all(p.dtype == torch.float32 for p in learner.parameters())
    weights = {"bf16": torch.bfloat16, "fp16": torch.float16, "amp": torch.float32}[name]
    assert half.model.clip.visual.proj.dtype == weights and half.model.clip.ln_final.weight.dtype == torch.float32
    batch = next(iter(exact.test_loader))
    with torch.no_grad():
        difference = (half.model_inference(batch["img"]) - exact.model_inference(batch["img"])).abs().max()
    assert difference < (0.1 if name == "fp16" else 1)
    half.num_batches, half.batch_idx = 2, 0
    assert half.forward_backward(batch)["loss"] > 0
    assert all(torch.isfinite(p).all() and p.dtype == torch.float32 for p in learner.parameters())


def test_published_precision_trains_prompts_in_float16(root, monkeypatch):
    monkeypatch.setattr(precision, "cpu_computes", lambda dtype: True)
    trainer = build(arguments(root, "CasPL_MaPLe", root / "half", TRAINER__MAPLE__PREC="fp16_published"))
    assert {p.dtype for p in trainer._models["MultiModalPromptLearner"].parameters()} == {torch.float16}


def test_cpu_without_half_precision_falls_back_to_float32_with_one_warning(root, monkeypatch, caplog):
    monkeypatch.setattr(precision, "cpu_computes", lambda dtype: False)
    with caplog.at_level(logging.WARNING):
        trainer = build(arguments(root, "CasPL_CoOp", root / "half", TRAINER__COOP__PREC="fp16"))
    assert trainer.model.clip.visual.proj.dtype == torch.float32
    assert [r.message for r in caplog.records if "Precision fp16: this CPU lacks" in r.message].__len__() == 1


def test_plugin_registers_only_caspl_names():
    script = "import trainers; from dassl.engine import TRAINER_REGISTRY as r;"
    out = subprocess.run(
        [sys.executable, "-c", script + "print(r.registered_names())", str(ROOT)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    names = {f"CasPL{mark}{host}" for host in HOSTS for mark in "_-"} | {"CasPL"}
    assert set(eval(out.splitlines()[-1])) == names


def test_hyphenated_name_is_same_trainer(root, trained):
    trainer = build(arguments(root, "CasPL-CoOp", root / "hyphen", TRAINER__CASPL__CHECKPOINT=root / "boost"))
    assert type(trainer).__name__ == "CasPL_CoOp" and trainer.model.boosting is not None


def test_host_is_looked_up_when_wrapper_is_built(root):
    class LaterHost(TRAINER_REGISTRY.get("CoOp")):
        """Registered after its wrapper."""

    trainers.wrap("LaterHost")
    trainers.wrap("LaterHost")
    with pytest.raises(ConfigError, match="LaterHost, which is not registered"):
        build(arguments(root, "CasPL_LaterHost", root / "later"))
    TRAINER_REGISTRY.register(LaterHost)
    assert isinstance(build(arguments(root, "CasPL_LaterHost", root / "later")), LaterHost)


def test_host_first_order_reaches_the_model(root):
    first = build(arguments(root, "CasPL_CoOp", root / "order"))
    second = build(arguments(root, "CasPL_CoOp", root / "order", TRAINER__CASPL__TEXT_ORDER="host_first"))
    slots = [[symbol.group for symbol in t.model.layout.prefix[1:]] for t in (first, second)]
    assert slots == [[1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1]]


def test_interrupted_run_resumes(root, tmp_path, monkeypatch):
    line = arguments(root, "CasPL_PromptSRC", tmp_path, OPTIM__MAX_EPOCH=3, TRAIN__CHECKPOINT_FREQ=1)
    stopped = build(line)

    def stop():
        if stopped.epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(stopped, "before_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    summed = stopped.model.prompt_learner.text_sum.clone()
    rest = build(line)
    epochs = []
    monkeypatch.setattr(
        rest, "before_epoch", lambda: epochs.append((rest.epoch, rest.model.prompt_learner.text_sum.clone()))
    )
    rest.train()
    assert [epoch for epoch, _ in epochs] == [1, 2] and torch.equal(epochs[0][1], summed)
    assert torch.equal(rest.model.prompt_learner.text, rest.model.prompt_learner.text_sum)


def test_images_match_the_configured_transform(root):
    trainer = build(arguments(root, "CoOp", root / "pictures"))
    batch = next(iter(trainer.test_loader))
    again = build_transform(trainer.cfg, is_train=False)(read_image(batch["impath"][0]))
    assert torch.equal(batch["img"][0], again)
