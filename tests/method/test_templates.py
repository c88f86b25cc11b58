"""Templates: a text, a list of texts, or descriptions per class."""

import json

import pytest
import torch
import toy
from dassl.config import get_cfg_default
from torch.nn import functional as F

from trainers import extend_cfg
from trainers.backbones import load_clip, tokenizer
from trainers.config import ConfigError
from trainers.engine.precision import Precision, choose
from trainers.method import templates
from trainers.method.identity import boosting_identity
from trainers.method.teachers import load_teacher
from trainers.method.zero_shot import zero_shot_model

NAMES = ["red_fox", "Boeing 737-800", "sea"]
DESCRIPTIONS = {
    "Red fox": ["A fox with red fur.", "Foxes have bushy tails.", "a wild animal"],
    "boeing 737 800": "An airliner with two engines.",
    "sea": ["Salty water.", "Waves at a beach."],
    "unused": ["nothing"],
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The file of a small CLIP."""
    path = tmp_path_factory.mktemp("weights") / "student.pt"
    toy.save_clip(path)
    return str(path)


@pytest.fixture
def write(tmp_path):
    """A function that writes JSON and returns the file's path as text."""

    def write(content):
        path = tmp_path / "texts.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def classes(weights, names, template):
    """Return the class features (C, E) of a zero-shot model."""
    with torch.no_grad():
        return zero_shot_model(load_clip(weights), tokenizer().encode, names, template).class_features()


def test_descriptions_are_averaged_per_class(weights, write):
    found = classes(weights, NAMES, write(DESCRIPTIONS))
    groups = [DESCRIPTIONS["Red fox"], [DESCRIPTIONS["boeing 737 800"]], DESCRIPTIONS["sea"]]
    expected = [F.normalize(classes(weights, group, "{}").mean(dim=0), dim=-1) for group in groups]
    assert torch.allclose(found, torch.stack(expected), atol=1e-6)


def test_list_of_templates_is_averaged(weights, write):
    several = ["a photo of a {}.", "{} in the wild."]
    found = classes(weights, NAMES, write(several))
    each = torch.stack([classes(weights, NAMES, template) for template in several])
    assert torch.allclose(found, F.normalize(each.mean(dim=0), dim=-1), atol=1e-6)


def test_one_template_in_a_list_equals_the_template(weights, write):
    assert torch.allclose(classes(weights, NAMES, write(["a {}."])), classes(weights, NAMES, "a {}."), atol=1e-6)


def test_teacher_uses_descriptions(weights, write):
    precision = choose("fp32", torch.device("cpu"))
    assert isinstance(precision, Precision)
    path = write(DESCRIPTIONS)
    teacher = load_teacher(weights, NAMES, path, precision)
    features = F.normalize(torch.randn(2, 32), dim=-1)
    with torch.no_grad():
        expected = teacher.scale() * features @ classes(weights, NAMES, path).t()
        assert torch.allclose(teacher.logits(features), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ([], "expected a list of texts"),
        (["no place"], "expected a list of texts"),
        ([1], "expected a list of texts"),
        ("3", "expected a list of templates or an object"),
        ({"sea": ["x"]}, "no texts for 2 classes, such as 'red_fox'"),
        ({**DESCRIPTIONS, "sea": []}, "the entry of 'sea'"),
        ({**DESCRIPTIONS, "sea": [""]}, "the entry of 'sea'"),
        ({**DESCRIPTIONS, "sea": {"a": 1}}, "the entry of 'sea'"),
    ],
)
def test_invalid_files_are_rejected(write, content, fault):
    path = write(content)
    with pytest.raises(ConfigError, match=fault) as error:
        templates.expand(path, NAMES)
    assert path in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("template", ["no place", "missing.json"])
def test_invalid_templates_are_rejected(template):
    cfg = get_cfg_default()
    cfg.DATASET.TEMPLATE = template
    with pytest.raises(ConfigError, match="DATASET.TEMPLATE"):
        templates.template_for(cfg)


def test_dataset_template_precedes_the_family_template():
    cfg = get_cfg_default()
    cfg.DATASET.NAME = "EuroSAT"
    assert templates.template_for(cfg) == "a centered satellite photo of {}."
    cfg.DATASET.TEMPLATE = "an aerial photo of {}."
    assert templates.template_for(cfg) == "an aerial photo of {}."


def test_recorded_template_identifies_the_content(write):
    first = templates.described(write(["a {}."]))
    assert first.startswith("texts.json (sha256 ") and first != templates.described(write(["the {}."]))
    assert templates.described("a {}.") == "a {}."


def test_identity_of_phase_1_depends_on_the_texts(write):
    cfg = get_cfg_default()
    extend_cfg(cfg)

    def identity(**keys):
        changed = cfg.clone()
        changed.TRAINER.CASPL.TEACHER.TEMPLATE = keys.get("teacher", "")
        changed.DATASET.TEMPLATE = keys.get("dataset", "")
        return boosting_identity(changed, "data", "teacher", "student")

    plain = identity()
    assert identity(dataset="a {}.") == identity(teacher="a {}.") != plain
    first = identity(dataset=write(["a {}."]))
    assert identity(dataset=write(["the {}."])) != first != plain
