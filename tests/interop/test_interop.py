"""CasPL in other people's checkouts, with their own trainers, their own `clip` and the real Dassl.

    CASPL_INTEROP=<folder with CoOp, multimodal-prompt-learning, PromptSRC and Dassl.pytorch> pytest tests/interop

The checkouts are copied, never changed. In the copies, train.py gets the two lines that the README asks for.
"""

import functools
import json
import re
import types

import numpy as np
import pytest
import test_parity
import torch
from checkouts import CHECKOUTS, REPOSITORIES, ROOT, Place
from safetensors.torch import load_file

from trainers.hosts import maple

FIXTURES = sorted((ROOT / "tests" / "golden" / "parity").glob("caspl_*.npz"))
KINDS = {"CoOp": ("coop", "cocoop"), "multimodal-prompt-learning": ("maple",), "PromptSRC": ("promptsrc",)}
# Host -> repository, the node of its options, and its precision. MaPLe's and PromptSRC's code runs in fp16 only.
HOSTS = {
    "CoOp": ("CoOp", "COOP", "fp32"),
    "CoCoOp": ("CoOp", "COCOOP", "fp32"),
    "MaPLe": ("multimodal-prompt-learning", "MAPLE", "fp16"),
    "IVLP": ("multimodal-prompt-learning", "IVLP", "fp32"),
    "PromptSRC": ("PromptSRC", "PROMPTSRC", "fp16"),
}

pytestmark = pytest.mark.skipif(
    not CHECKOUTS,
    reason="set CASPL_INTEROP to a folder with CoOp, multimodal-prompt-learning, PromptSRC and Dassl.pytorch",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("interop"))


@pytest.fixture(scope="module")
def boosted(place):
    """Repository -> the boosting-prompt file that phase 1 wrote there."""

    @functools.cache
    def of(repository):
        place.train(repository, "CasPL", f"phase1-{repository}")
        return place.folder / f"phase1-{repository}" / "boosting.safetensors"

    return of


def accuracies(output):
    """Return all accuracies in a log."""
    return re.findall(r"accuracy: ([\d.]+)%", output)


def test_phase1_is_the_same_everywhere(boosted):
    """Each fork of `clip` gives the stock CLIP, so the same prompt is learned."""
    first, *others = (load_file(boosted(repository)) for repository in REPOSITORIES)
    assert first["text"].shape == (2, 3, 512) and first["vision"].shape == (3, 2, 768)
    for other in others:
        assert torch.equal(first["text"], other["text"]) and torch.equal(first["vision"], other["vision"])


@pytest.mark.parametrize("host", HOSTS)
def test_phase2_and_evaluation(place, boosted, host):
    repository, node, precision = HOSTS[host]
    options = ["TRAINER.CASPL.CHECKPOINT", boosted(repository), f"TRAINER.{node}.PREC", precision]
    run = place.folder / f"phase2-{host}"
    output = place.train(repository, f"CasPL_{host}", run.name, *options)
    assert "Cascaded with" in output and "Cascaded with" in (run / "log.txt").read_text()
    assert (run / "boosting.safetensors").read_bytes() == boosted(repository).read_bytes()
    (saved,) = run.glob("*/model.pth.tar-2")
    keys = torch.load(saved, weights_only=True)["state_dict"].keys()
    assert keys and not [key for key in keys if "boosting" in key]
    flags = ["--eval-only", "--model-dir", run, "--load-epoch", "2"]
    evaluated = place.train(repository, f"CasPL_{host}", f"evaluated-{host}", *options, flags=flags)
    assert accuracies(evaluated) == accuracies(output)[-1:] != []


def native(case, order):
    """Our own host's logits for a fixture."""
    model = test_parity.HOSTS[case.kind.removeprefix("caspl_")](case, case.meta["n_ctx"])
    model.cascade(case.boosting().freeze(), order)
    with torch.no_grad():
        return model(case.images).numpy()


def native_maple_with_words(case, order, words):
    """The same of a MaPLe whose context leaves words over."""
    model = maple.build(case.clip(), case.names, case.meta["n_ctx"], words, case.meta["depth"])
    test_parity.fill(model.prompt_learner, case, [("weight", 0.05), ("", 0.02)])
    model.cascade(case.boosting().freeze(), order)
    with torch.no_grad():
        return model(case.images).numpy()


def foreign(place, repository, words, files):
    """A checkout's logits: `foreign(...)(fixture, what)`."""
    place.run(repository, "logits", place.folder / "logits.npz", words, *files)
    logits = dict(np.load(place.folder / "logits.npz"))
    for file in files:
        for order in ("host_first", "boosting_first"):
            plain, removed = logits[f"{file.stem}/plain"], logits[f"{file.stem}/{order}.removed"]
            assert np.array_equal(plain, removed), "removing the boosting prompt gives other logits than before"
            assert abs(plain - logits[f"{file.stem}/{order}"]).max() > 1
    return lambda file, what: logits[f"{file.stem}/{what}"]


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_logits(place, repository):
    files = [file for file in FIXTURES if file.stem.split("-")[0].removeprefix("caspl_") in KINDS[repository]]
    logits = foreign(place, repository, "", files)
    for file in files:
        case = test_parity.Case(file)
        published = {"host_first": case.data["logits"], "boosting_first": native(case, "boosting_first")}
        for order, expected in published.items():
            np.testing.assert_allclose(
                logits(file, order), expected, rtol=0, atol=test_parity.LOGITS, err_msg=file.stem
            )


def test_logits_after_fixed_words(place):
    """MaPLe's context may leave fixed words; the boosting prompt follows them, as in our own MaPLe."""
    (file,) = (file for file in FIXTURES if "maple" in file.stem and "-a3" in file.stem)
    logits = foreign(place, "multimodal-prompt-learning", "a photo of a", [file])
    for order in ("host_first", "boosting_first"):
        expected = native_maple_with_words(test_parity.Case(file), order, "a photo of a")
        np.testing.assert_allclose(logits(file, order), expected, rtol=0, atol=test_parity.LOGITS)


def test_learning_rates_of_the_real_dassl(place):
    """As Dassl gave them on the PyTorch that it was written for, from resumed runs too."""
    schedules, found = ROOT / "tests" / "golden" / "toolbox" / "lr_schedules.json", place.folder / "rates.json"
    place.run("CoOp", "schedules", schedules, found)
    for rates, schedule in zip(json.loads(found.read_text()), json.loads(schedules.read_text()), strict=True):
        assert rates == pytest.approx(schedule["lr_of_epoch"], rel=1e-9)


def test_resume_and_older_checkpoints(place, boosted):
    """An interrupted run resumes; a checkpoint with objects in it, as older PyTorches wrote, can be evaluated."""
    options = ["TRAINER.CASPL.CHECKPOINT", boosted("CoOp"), "TRAINER.COOP.PREC", "fp32", "OPTIM.MAX_EPOCH", 3]
    run = place.folder / "resumed"
    place.train("CoOp", "CasPL_CoOp", run.name, *options)
    saved = [run / "prompt_learner" / f"model.pth.tar-{epoch}" for epoch in (2, 3)]
    whole = torch.load(saved[1], weights_only=True)
    saved[1].unlink()
    (run / "prompt_learner" / "checkpoint").write_text(f"{saved[0].name}\n")
    output = place.train("CoOp", "CasPL_CoOp", run.name, *options)
    again = torch.load(saved[1], weights_only=True)
    assert "Previous epoch: 2" in output and "epoch [2/3]" not in output
    assert again["scheduler"] == whole["scheduler"]

    torch.save(again | {"scheduler": types.SimpleNamespace()}, saved[1])
    flags = ["--eval-only", "--model-dir", run, "--load-epoch", "3"]
    evaluated = place.train("CoOp", "CasPL_CoOp", "evaluated-older", *options, flags=flags)
    assert accuracies(evaluated) == accuracies(output)[-1:] != []


def test_host_that_keeps_a_text_encoder_that_never_runs(place, boosted):
    """VPT of MaPLe's repository computes its text features while it is built: it is built again with the text tokens."""
    options = ["TRAINER.CASPL.CHECKPOINT", boosted("CoOp"), "TRAINER.VPT.PREC", "fp32"]
    output = place.train("multimodal-prompt-learning", "CasPL_VPT", "vpt", *options)
    assert "VPT computes its text features while it is built" in output and "Cascaded with" in output


def test_host_cascades_under_its_own_name(place, boosted):
    """The checkpoint in the configuration is enough; without it the host runs alone."""
    options = ["TRAINER.CASPL.CHECKPOINT", boosted("CoOp"), "TRAINER.COOP.PREC", "fp32"]
    cascaded = place.train("CoOp", "CasPL_CoOp", "under-ours", *options)
    own = place.train("CoOp", "CoOp", "under-its-own", *options)
    alone = place.train("CoOp", "CoOp", "alone", *options[2:])
    assert "Cascaded with" in own and "Cascaded with" not in alone
    saved = [
        place.folder / run / "prompt_learner" / "model.pth.tar-2" for run in ("under-ours", "under-its-own", "alone")
    ]
    ours, theirs, plain = (torch.load(file, weights_only=True)["state_dict"]["ctx"] for file in saved)
    assert torch.equal(ours, theirs) and not torch.equal(ours, plain)
    assert accuracies(own) == accuracies(cascaded)


@pytest.mark.parametrize("without", ["TEXT", "VISION"])
def test_prompt_of_one_tower(place, without):
    """Phase 1 without text or vision tokens, in one checkout; hosts of two others cascade with its prompt."""
    phase_1 = f"phase1-without-{without}"
    place.train("CoOp", "CasPL", phase_1, f"TRAINER.CASPL.DEPTH_{without}", 0)
    file = place.folder / phase_1 / "boosting.safetensors"
    assert {tower.upper() for tower, tokens in load_file(file).items() if not tokens.numel()} == {without}
    for repository, host, node, precision in (
        ("multimodal-prompt-learning", "MaPLe", "MAPLE", "fp16"),
        ("PromptSRC", "PromptSRC", "PROMPTSRC", "fp16"),
    ):
        options = ["TRAINER.CASPL.CHECKPOINT", file, f"TRAINER.{node}.PREC", precision]
        output = place.train(repository, host, f"{host}-without-{without}", *options)
        assert "Cascaded with" in output and f"0 {without.lower()}" in output and accuracies(output)


def test_checkpoint_in_a_configuration_file_is_enough(place, boosted):
    """As docs/authors.md shows: a CASPL node below TRAINER in the host's own YAML file, under its own name."""
    file = place.folder / "host.yaml"
    file.write_text(f"TRAINER:\n  COOP:\n    PREC: fp32\n  CASPL:\n    CHECKPOINT: {boosted('CoOp')}\n")
    output = place.train("CoOp", "CoOp", "from-yaml", flags=["--config-file", file])
    assert "Cascaded with" in output and (place.folder / "from-yaml" / "boosting.safetensors").exists()
