"""A finished run as a classifier: equal to the run's evaluation, for every trainer; predictions, other classes."""

import functools
import json

import pytest
import torch
import toy
from dassl.engine import build_trainer
from deployed import CONSTANT, PER_IMAGE, TRAINERS, toys, trained
from PIL import Image

from trainers.__main__ import main as caspl
from trainers.cli import train
from trainers.config import ConfigError
from trainers.deploy import classifier as deploy
from trainers.deploy import images as deployed_images
from trainers.deploy.bundle import bundle
from trainers.training import loaders


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pictures, CLIPs, and a run of every trainer."""
    root = tmp_path_factory.mktemp("deploy")
    toys(root)
    for trainer in TRAINERS:
        trained(root, trainer)
    return root


@functools.cache
def loaded_run(root, trainer):
    """Return a run's classifier, loaded once."""
    return deploy.load(root / trainer)


@functools.cache
def evaluated(root, trainer, *options):
    """Return the evaluation's trainer, and its test batches' images and logits, computed once."""
    cfg = train.setup_cfg(train.parse(["--eval-only", "--model-dir", str(root / trainer), *options]))
    built = build_trainer(cfg)
    built.load_model(str(root / trainer))
    built.set_model_mode("eval")
    with torch.no_grad():
        return built, [(batch["img"], built.model_inference(batch["img"])) for batch in built.test_loader]


def assert_near(found, expected):
    """Compare logits: within 1e-5 of the largest, as the toys' are up to 50 and float32 has 7 digits."""
    torch.testing.assert_close(found, expected, atol=1e-5 * max(1.0, expected.abs().max().item()), rtol=0)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_logits_equal_the_evaluations(root, trainer):
    built, batches = evaluated(root, trainer)
    loaded = loaded_run(root, trainer)
    assert loaded.class_names == list(built.dm.dataset.classnames) and not loaded.training
    for images, logits in batches:
        assert torch.equal(loaded(images), logits)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_predict_reads_files_as_the_evaluation_does(root, trainer):
    built, batches = evaluated(root, trainer)
    paths = [item.impath for item in built.dm.dataset.test]
    found = loaded_run(root, trainer).predict(paths, top=2)
    logits = torch.cat([logits for _, logits in batches])
    assert [each.label for each in found] == [toy.NAMES[i] for i in logits.argmax(dim=1)]
    expected = torch.cat([logits.softmax(dim=1).topk(2).values for _, logits in batches])
    assert [[p for _, p in each.top] for each in found] == expected.tolist()  # bit for bit, in the evaluation's batches


@pytest.mark.parametrize("trainer", ["CasPL", "CasPL_CoOp"])
def test_images_are_read_by_as_many_processes_as_in_the_evaluation(root, trainer, monkeypatch):
    built, _ = evaluated(root, trainer)
    assert loaded_run(root, trainer).num_workers == built.cfg.DATALOADER.NUM_WORKERS == 0
    made = []
    monkeypatch.setattr(deployed_images, "DataLoader", lambda *args, **kwargs: made.append(kwargs["num_workers"]) or [])
    for workers, expected in [(0, 0), (3, 3), (-1, loaders.workers(-1))]:
        classifier = loaded_run(root, trainer).with_classes(["dot", "dash"])
        classifier.num_workers = workers
        list(classifier.with_classes(["dash"]).batches([*root.rglob("*.png")] * 100))
        assert made.pop() == expected


@pytest.mark.parametrize("trainer", TRAINERS)
def test_other_classes_equal_a_model_built_for_them(root, trainer):
    _, batches = evaluated(root, trainer, "DATASET.SUBSAMPLE_CLASSES", "new")
    other = loaded_run(root, trainer).with_classes(toy.NAMES[3:])
    assert_near(other(batches[0][0]), batches[0][1])


def test_class_specific_context_has_no_other_classes(root, tmp_path):
    train.run(toy.command(root, "CoOp", tmp_path / "csc", TRAINER__COOP__CSC="True"))
    loaded = deploy.load(tmp_path / "csc")
    with pytest.raises(ConfigError, match="belongs to single classes"):
        loaded.with_classes(["a cat"])


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("count", [1, 5])
def test_logits_of_other_batches_are_within_1e_5(root, trainer, count):
    _, batches = evaluated(root, trainer)
    images, logits = (torch.cat(parts) for parts in zip(*batches, strict=True))
    loaded = loaded_run(root, trainer)
    found = torch.cat([loaded(part) for part in images.split(count)])
    assert_near(found, logits)


@pytest.mark.parametrize("trainer", CONSTANT)
def test_features_of_images_and_names_give_the_logits(root, trainer):
    loaded = loaded_run(root, trainer)
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    scale = loaded.model.clip.logit_scale.exp()
    for names, classifier in ((None, loaded), (toy.NAMES[1:4], loaded.with_classes(toy.NAMES[1:4]))):
        vectors = loaded.encode_text(names)
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(len(vectors)), atol=1e-5, rtol=0)
        assert_near(scale * loaded.encode_image(images) @ vectors.t(), classifier(images))


@pytest.mark.parametrize("trainer", PER_IMAGE)
def test_text_features_that_depend_on_the_image_have_a_reason(root, trainer):
    with pytest.raises(ConfigError, match="depend on the image"):
        loaded_run(root, trainer).encode_text()


@pytest.mark.parametrize("trainer", TRAINERS)
def test_unknown_below_leaves_no_label(root, trainer):
    image, loaded = Image.new("RGB", (20, 30), "red"), loaded_run(root, trainer)
    (certain,) = loaded.predict(image, unknown_below=0.0)
    (found,) = loaded.predict([image], unknown_below=certain.top[0][1] + 1e-3)
    assert found.label is None and certain.label == found.top[0][0] and len(found.top) == 5


@pytest.mark.parametrize("trainer", TRAINERS)
def test_local_dir_loads_the_same_module(root, trainer):
    one, other = loaded_run(root, trainer), deploy.load(f"local-dir:{root / trainer}").to(torch.device("cpu"))
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert isinstance(other, torch.nn.Module) and torch.equal(one(images), other(images))
    assert other.preprocess(Image.new("RGB", (20, 30))).shape == (3, 16, 16)


@pytest.mark.parametrize("trainer", ["CasPL", "CasPL_MaPLe", "PromptSRC"])
def test_bundle_loads_like_its_run(root, tmp_path, trainer):
    files = bundle(root / trainer, tmp_path / "shared")
    text = (tmp_path / "shared" / "config.json").read_text()
    described = json.loads(text)
    assert set(described["checksums"]) == {path.name for path in files} - {"config.json"}
    assert "student.pt" in text and str(root) not in text + (tmp_path / "shared" / "config.yaml").read_text()
    images = evaluated(root, trainer)[1][0][0]
    loaded = deploy.load(f"local-dir:{tmp_path / 'shared'}", backbone=str(root / "student.pt"))
    assert torch.equal(loaded(images), loaded_run(root, trainer)(images))


def test_predict_command_writes_the_rest_and_lists_unreadable_images(root, tmp_path, capsys):
    folder = tmp_path / "photos" / "deeper"
    folder.mkdir(parents=True)
    for name, colour in (("a.png", "red"), ("b.jpg", "blue")):
        Image.new("RGB", (30, 20), colour).save(folder / name)
    (folder / "c.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("")
    line = [
        "predict",
        str(root / "CasPL_CoOp"),
        str(tmp_path / "photos"),
        "--top",
        "3",
        "--json",
        str(tmp_path / "p.json"),
    ]
    assert caspl(line) == 3
    rows = json.loads((tmp_path / "p.json").read_text())
    assert [row["path"].rsplit("/", 1)[1] for row in rows] == ["a.png", "b.jpg"] and len(rows[0]["top"]) == 3
    assert "c.png" in capsys.readouterr().err
    assert caspl([*line[:-2], "--csv", str(tmp_path / "p.csv"), "--classes", "a cat", "a dog"]) == 3
    header, *table = (tmp_path / "p.csv").read_text().splitlines()
    assert header == "path,label,class_1,p_1,class_2,p_2" and len(table) == 2 and "a " in table[0]


def test_embed_and_classifier_files(root, tmp_path):
    from safetensors import safe_open

    assert caspl(["embed", str(root / "CoOp"), str(root / "toy"), "--out", str(tmp_path / "e.safetensors")]) == 0
    assert caspl(["classifier", str(root / "CoOp"), str(tmp_path / "c.safetensors")]) == 0
    with safe_open(tmp_path / "e.safetensors", "pt") as file, safe_open(tmp_path / "c.safetensors", "pt") as other:
        features, paths = file.get_tensor("features"), json.loads(file.metadata()["paths"])
        vectors = other.get_tensor("classifier")
        assert json.loads(other.metadata()["class_names"]) == toy.NAMES
    loaded = deploy.load(root / "CoOp")
    assert len(features) == len(paths) == 54 and vectors.shape == (32, 6)
    logits = loaded(loaded.preprocess(Image.open(paths[7]).convert("RGB"))[None])
    torch.testing.assert_close(loaded.model.clip.logit_scale.exp() * features[7:8] @ vectors, logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["nowhere", "x.png"], "nowhere: does not exist"),
        (["CoOp", "x.png"], "x.png: does not exist"),
        (["CoOp", "empty"], "has the ending of an image format"),
        (["CoOp", "toy", "--top", "0"], "--top is 0, expected 1 or more"),
        (["CoOp", "toy", "--unknown-below", "7"], "--unknown-below is 7.0, expected a probability from 0 to 1"),
    ],
)
def test_mistakes_end_in_one_line(root, capsys, monkeypatch, line, message):
    (root / "empty").mkdir(exist_ok=True)
    monkeypatch.chdir(root)
    if line[0] == "nowhere":
        line = ["nowhere", "toy"]
    assert caspl(["predict", *line]) == 2
    assert message in capsys.readouterr().err
