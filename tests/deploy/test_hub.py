"""Sharing runs, with the hub's real client against a local server: upload, download, offline, failures, damage."""

import logging
import os
import subprocess
import sys

import pytest
import torch
import toy
from children import ALONE
from hub_server import SHA, served

from trainers.__main__ import main as caspl
from trainers.cli import train
from trainers.deploy import bundle
from trainers.deploy import classifier as deploy
from trainers.storage import hub

SECRET = "hf_aSecretTokenOfSomebody"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """CLIPs, and a run of both phases."""
    root = tmp_path_factory.mktemp("hub")
    toy.save_clip(root / "student.pt")
    toy.save_clip(root / "teacher.pt", toy.TEACHER, seed=4)
    train.run(toy.command(root, "CasPL", root / "boost"))
    train.run(toy.command(root, "CasPL_CoOp", root / "run", TRAINER__CASPL__CHECKPOINT=root / "boost"))
    return root


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The server's state; the client's endpoint, cache and token."""
    with served() as (state, address):
        import huggingface_hub
        from huggingface_hub import constants

        client = huggingface_hub.HfApi(endpoint=address, token=SECRET)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(hub, "_client", lambda: _Bound(client, tmp_path / "cache"))
        yield state


class _Bound:
    """The real client, bound to the local server and to a cache of the test."""

    def __init__(self, client, cache):
        self.create_repo, self.upload_folder = client.create_repo, client.upload_folder
        self.snapshot_download = lambda *args, **kwargs: client.snapshot_download(*args, **kwargs, cache_dir=cache)


def load(root, name):
    return deploy.load(name, backbone=str(root / "student.pt"))


def test_pushed_run_loads_with_the_same_logits(root, server, capsys):
    assert caspl(["push", str(root / "run"), "user/pets", "--private"]) == 0
    files = server.files["user/pets"]
    assert set(files) >= {"boosting.safetensors", "adapting.safetensors", "config.json", "config.yaml", "README.md"}
    assert server.private["user/pets"] and any(SECRET in token for token in server.tokens)
    images = torch.randn(4, 3, 16, 16)
    for name in ("hf-hub:user/pets", f"hf-hub:user/pets@{SHA}"):
        assert torch.equal(load(root, name)(images), deploy.load(root / "run")(images))
    written = b"".join(files.values()).decode(errors="replace")
    assert str(root) not in written and SECRET not in written + capsys.readouterr().out


def test_teacher_on_this_machine_is_named(root, caplog):
    for teacher, warned in ((f"run:{root / 'run'}", True), ("run:hf-hub:user/pets", False), ("ViT-L/14", False)):
        caplog.clear()
        bundle._warn_about_teacher(teacher)
        assert bool(caplog.records) == warned, teacher


def test_card_names_data_classes_and_teacher(root, server):
    assert caspl(["push", str(root / "run"), "user/pets"]) == 0
    card = server.files["user/pets"]["README.md"].decode()
    assert card.startswith("---\nlibrary_name: caspl\npipeline_tag: zero-shot-image-classification")
    assert "Phase 1: 24 images of Toy without labels, all classes (6: red_fox" in card
    assert "Phase 2: 24 images of Toy with labels" in card and "Teacher of phase 1: teacher.pt." in card
    assert "## Licences" in card and "| Toy all | " in card


def test_cached_run_loads_offline(root, server):
    assert caspl(["push", str(root / "run"), "user/pets"]) == 0
    load(root, "hf-hub:user/pets")
    server.fail["/api/models/"] = 500
    assert load(root, "hf-hub:user/pets").class_names == toy.NAMES


@pytest.mark.parametrize("code", [401, 404, 500])
def test_download_failures_end_in_one_line(root, server, capsys, code):
    server.fail["/api/models/"] = code
    assert caspl(["predict", "hf-hub:user/absent", str(root / "toy")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "hf-hub:user/absent: cannot be downloaded" in error and SECRET not in error


def test_interrupted_transfer_leaves_no_half_file(root, server, capsys):
    assert caspl(["push", str(root / "run"), "user/pets"]) == 0
    server.fail["boosting.safetensors"] = 0
    assert caspl(["predict", "hf-hub:user/pets", str(root / "toy")]) == 2
    assert "cannot be downloaded" in capsys.readouterr().err
    server.fail.clear()
    assert load(root, "hf-hub:user/pets").class_names == toy.NAMES


def test_damaged_file_is_named(root, server):
    assert caspl(["push", str(root / "run"), "user/pets"]) == 0
    files = server.files["user/pets"]
    files["adapting.safetensors"] = files["adapting.safetensors"][:-4] + b"\0\0\0\1"
    with pytest.raises(hub.HubError, match=r"adapting\.safetensors is missing or damaged"):
        load(root, "hf-hub:user/pets")


@pytest.mark.parametrize("code", [401, 403, 500])
def test_upload_failures_end_in_one_line_without_the_token(root, server, capsys, caplog, code):
    server.fail["/api/repos/create"] = code
    with caplog.at_level(logging.DEBUG):
        assert caspl(["push", str(root / "run"), "user/pets"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "cannot be written" in error and SECRET not in error + caplog.text


@pytest.fixture
def prompt(root, server):
    """A boosting prompt in a repository, pushed as a file."""
    assert caspl(["push", str(root / "boost" / "boosting.safetensors"), "user/prompt"]) == 0
    return server.files["user/prompt"]


def cascaded(root, folder, where):
    """Train phase 2 with the boosting prompt that a key names; return its metrics."""
    return train.run(toy.command(root, "CasPL_CoOp", folder, TRAINER__CASPL__CHECKPOINT=where))


def test_pushed_prompt_has_a_card_and_no_paths(root, prompt):
    assert set(prompt) == {"boosting.safetensors", "config.json", "ledger.json", "README.md"}
    card = prompt["README.md"].decode()
    assert "Teacher of phase 1: teacher.pt" in card and "student.pt: that of its publisher" in card
    assert str(root) not in b"".join(prompt.values()).decode(errors="replace")


@pytest.mark.parametrize("revision", ["", "@main", f"@{SHA}"])
def test_checkpoint_key_reads_a_prompt_from_the_hub(root, prompt, tmp_path, revision):
    metrics = cascaded(root, tmp_path / "run", f"hf-hub:user/prompt{revision}")
    assert metrics == cascaded(root, tmp_path / "local", root / "boost")
    kept = (tmp_path / "run" / "boosting.safetensors").read_bytes()
    assert kept == prompt["boosting.safetensors"]


def test_cached_prompt_is_read_offline(root, server, prompt, tmp_path, monkeypatch):
    where = "hf-hub:user/prompt"
    first = cascaded(root, tmp_path / "run", where)
    server.fail["/"] = 500
    assert cascaded(root, tmp_path / "again", where) == first
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert cascaded(root, tmp_path / "offline", where) == first


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda files: files.update({"boosting.safetensors": files["boosting.safetensors"][:-1] + b"1"}), "damaged"),
        (lambda files: files.pop("boosting.safetensors"), "missing or damaged"),
        (lambda files: files.update({"config.json": b"{}"}), "expected a repository that `caspl push` wrote"),
    ],
)
def test_checkpoint_key_rejects_damaged_repositories(root, prompt, tmp_path, damage, message):
    damage(prompt)
    with pytest.raises(hub.HubError, match=message):
        cascaded(root, tmp_path / "run", "hf-hub:user/prompt")
    assert not list(tmp_path.glob("run/*.safetensors"))


@pytest.mark.parametrize("code", [401, 404, 500])
def test_checkpoint_key_reports_a_failing_hub_in_one_line(root, server, tmp_path, code, capsys):
    server.fail["/api/models/"] = code
    line = toy.command(root, "CasPL_CoOp", tmp_path / "run", TRAINER__CASPL__CHECKPOINT="hf-hub:user/prompt")
    assert caspl(["train", *line]) == 2
    error = capsys.readouterr().err
    assert error.count("error:") == 1 and "hf-hub:user/prompt: cannot be downloaded" in error and SECRET not in error


def test_interrupted_prompt_is_downloaded_again(root, server, prompt, tmp_path):
    server.fail["boosting.safetensors"] = 0
    with pytest.raises(hub.HubError, match="cannot be downloaded"):
        cascaded(root, tmp_path / "run", "hf-hub:user/prompt")
    server.fail.clear()
    assert cascaded(root, tmp_path / "run", "hf-hub:user/prompt")["accuracy"] >= 0


@pytest.mark.parametrize("name", ["hf-hub:pets", "hf-hub:a/b/c", "hf-hub:user/pets@", "hf-hub:/"])
def test_malformed_names(name):
    with pytest.raises(ValueError, match="expected hf-hub:<user>/<name>"):
        hub.parse(name)


def test_missing_client_is_named():
    script = "import sys; sys.modules['huggingface_hub'] = None; import trainers; trainers.load('hf-hub:user/pets')"
    done = subprocess.run(
        [sys.executable, "-c", script], env=ALONE | {"HOME": os.devnull}, capture_output=True, text=True
    )
    assert "pip install 'caspl[hub]'" in done.stderr
