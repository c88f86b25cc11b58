"""The engine itself is exported with a free batch size, on both of its implementations."""

import pytest
import torch
import toy
import versions
from torch import nn

from trainers.backbones import load_clip
from trainers.engine import PromptGroup
from trainers.hosts import maple

pytestmark = versions.exports

BATCHES = (1, 3, 9, 20)  # 20 images are computed in three parts without export


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """MaPLe with a boosting prompt of another depth, and boosting tokens that are carried."""
    path = toy.save_clip(tmp_path_factory.mktemp("export") / "student.pt")
    model = maple.build(load_clip(str(path)), toy.NAMES, n_ctx=2, prompt_depth=3)
    model.cascade(PromptGroup.random((3, 2, 64), (2, 3, 64)), "host_first")
    return model.eval().requires_grad_(False)


class _ImageFeatures(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model.image_features(images)


def exported(module):
    """Export with a free batch size, from an example of two images."""
    shapes = {"images" if isinstance(module, _ImageFeatures) else "image": {0: torch.export.Dim("batch", min=1)}}
    return torch.export.export(module, (torch.randn(2, 3, 16, 16),), dynamic_shapes=shapes)


@pytest.mark.parametrize("onednn", [True, False], ids=["cpu", "gpu"])
@pytest.mark.parametrize("whole", [True, False], ids=["logits", "features"])
@torch.no_grad()
def test_export_equals_engine_for_any_batch(model, onednn, whole):
    module = model if whole else _ImageFeatures(model)
    with torch.backends.mkldnn.flags(enabled=onednn):
        run = exported(module).module()
        for count in BATCHES:
            images = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(count))
            torch.testing.assert_close(run(images), module(images), atol=1e-4 if whole else 1e-5, rtol=0)


@pytest.mark.slow
@torch.no_grad()
def test_exported_engine_has_portable_operations_only(model):
    pytest.importorskip("onnxscript")
    program = exported(_ImageFeatures(model))
    assert not [node for node in program.graph.nodes if "mkldnn" in str(node.target)]
    torch.onnx.export(program, (), dynamo=True, verbose=False)
