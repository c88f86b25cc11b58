"""Class features are cached in an evaluation until anything that they depend on changes."""

import copy
import time

import pytest
import torch
from torch import nn

from scripts.benchmark import works
from trainers.engine.watched import Watched

CPU, SMALL = torch.device("cpu"), works.SIZES["small"]


@pytest.fixture
def model():
    """CasPL_CoOp with a small CLIP."""
    torch.manual_seed(0)
    return works.host_works("CoOp", SMALL, 3, CPU, torch.float32)["engine"].model


def written(model):
    model.prompt_learner.ctx.normal_()


def written_below_data(model):
    model.boosting.text.data = torch.randn_like(model.boosting.text)


def replaced(model):
    model.prompt_learner.ctx = nn.Parameter(torch.randn_like(model.prompt_learner.ctx))


def replaced_module(model):
    model.clip.ln_final = nn.LayerNorm(SMALL.text_width).requires_grad_(False)
    model.clip.ln_final.bias.normal_()


def loaded(model):
    model.load_state_dict({key: torch.randn_like(value) for key, value in model.state_dict().items()})


def removed(model):
    model.cascade(None)


@pytest.mark.parametrize("change", [written, written_below_data, replaced, replaced_module, loaded, removed])
@torch.no_grad()
def test_changed_model_computes_class_features_again(model, change):
    first = model.class_features()
    assert model.class_features() is first
    change(model)
    second = model.class_features()
    assert second is not first and model.class_features() is second
    torch.testing.assert_close(second, model._class_features())
    assert (second - first).abs().max() > 1e-3


@torch.no_grad()
def test_copies_have_their_own_class_features(model):
    first = model.class_features()
    for other in (copy.deepcopy(model), copy.copy(model)):
        assert other.class_features() is not first
        torch.testing.assert_close(other.class_features(), first)


def test_comparison_does_not_traverse_the_model():
    model = nn.Sequential(*(nn.Sequential(nn.Linear(1, 1)) for _ in range(300)))
    watched = Watched(model)

    def fastest(work):
        times = []
        for _ in range(20):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return min(times)

    assert fastest(watched.unchanged) < fastest(lambda: [(p.data_ptr(), p._version) for p in model.parameters()]) / 2
