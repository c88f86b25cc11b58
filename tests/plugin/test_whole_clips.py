"""`caspl.inject` and `caspl.boosted` on OpenAI's, open_clip's and Hugging Face's CLIPs, against the engine."""

import dataclasses

import hf_folder
import numpy as np
import pytest
import torch
from hf_folder import renamed
from PIL import Image
from random_weights import Spec, clip_state_dict, randn
from torch.nn import functional as F

import trainers
from trainers.backbones import build_clip, fingerprint, load_clip, tokenizer, tokenizer_of
from trainers.engine import Learner, PromptedCLIP, PromptGroup, special_tokens, worded_texts
from trainers.engine.tokens import EOT, SOS
from trainers.method.prompt_file import BoostingInfo, CheckpointError, save_boosting
from trainers.plugin.structure import HostError

LAYERS = 3
SIZES = Spec(vision_width=64, text_width=64, embed_dim=32, vision_layers=LAYERS, text_layers=LAYERS, patch=8, grid=2)
NAMES = ["tree", "golden retriever dog", "Boeing 737-800"]
TEMPLATE = "a photo of a {}."
IMAGES = randn(1, "images", (2, 3, SIZES.image, SIZES.image))
DEPTHS = [(3, 3), (2, 1), (1, 2), (0, 2), (2, 0)]
FEATURES = 1e-5


@pytest.fixture(scope="module")
def state():
    rows = [tokenizer().encode(TEMPLATE.format(name)) for name in NAMES]
    return clip_state_dict(SIZES, 3, {SOS, EOT, *(token for row in rows for token in row)})


@pytest.fixture(scope="module")
def clip_model(state):
    return build_clip(state)


def token_ids(length=77):
    """Token ids (C, length), padded with 0."""
    rows = [[SOS, *tokenizer().encode(TEMPLATE.format(name)), EOT] for name in NAMES]
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


class OpenAI:
    """Calls of OpenAI's models, and open_clip's."""

    def __init__(self, model):
        self.model = model

    def image(self, images):
        return self.model.encode_image(images)

    def text(self):
        return self.model.encode_text(token_ids())


class HuggingFace(OpenAI):
    """Calls of Hugging Face's models; texts are padded to the longest only."""

    def image(self, images):
        return pooled(self.model.get_image_features(pixel_values=images))

    def text(self):
        ids = token_ids(16)
        mask = (torch.arange(16) <= ids.argmax(dim=-1)[:, None]).long()
        padded = ids.where(mask.bool(), torch.tensor(EOT))
        return pooled(self.model.get_text_features(input_ids=padded, attention_mask=mask))


class WithoutMask(HuggingFace):
    """The same without an attention mask, where the attention is told to be causal."""

    def text(self):
        ids = token_ids(16)
        padded = ids.where(torch.arange(16) <= ids.argmax(dim=-1)[:, None], torch.tensor(EOT))
        return pooled(self.model.get_text_features(input_ids=padded))


def pooled(output):
    """The features, which newer releases return in an output object."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def openai(state):
    return OpenAI(build_clip(state))


def open_clip_model(state):
    return OpenAI(open_clip_of(state, "CLIP"))


def open_clip_custom(state):
    return OpenAI(open_clip_of(state, "CustomTextCLIP"))


def open_clip_of(state, kind):
    model = pytest.importorskip("open_clip.model")
    vision = model.CLIPVisionCfg(layers=LAYERS, width=64, head_width=64, patch_size=8, image_size=SIZES.image)
    text = model.CLIPTextCfg(context_length=77, vocab_size=49408, width=64, heads=1, layers=LAYERS)
    built = getattr(model, kind)(SIZES.embed_dim, vision, text, quick_gelu=True).eval()
    moved = {
        key if kind == "CLIP" or key.startswith("visual.") or key == "logit_scale" else f"text.{key}": value
        for key, value in state.items()
    }
    built.load_state_dict(moved)
    return built


def hugging_face(state, attention="sdpa", kind=HuggingFace):
    transformers = hf_folder.hugging_face()
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": LAYERS, "num_attention_heads": 1}
    sizes |= {"hidden_act": "quick_gelu", "projection_dim": SIZES.embed_dim}
    text = transformers.CLIPTextConfig(**sizes, vocab_size=49408, eos_token_id=EOT, bos_token_id=SOS)
    vision = transformers.CLIPVisionConfig(**sizes, image_size=SIZES.image, patch_size=8)
    config = transformers.CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=SIZES.embed_dim
    )
    config._attn_implementation = attention
    model = transformers.CLIPModel(config).eval()
    model.load_state_dict(renamed(state))
    return kind(model)


MODELS = {
    "openai": openai,
    "open_clip": open_clip_model,
    "open_clip custom text": open_clip_custom,
    "hugging face": hugging_face,
    "hugging face eager": lambda state: hugging_face(state, "eager"),
    "hugging face without mask": lambda state: hugging_face(state, kind=WithoutMask),
}


@pytest.fixture(params=MODELS)
def model(request, state):
    return MODELS[request.param](state)


def boosting(text, vision):
    """A boosting prompt of two depths."""
    return PromptGroup(randn(2, "text", (text, 5, 64), 0.3), randn(2, "vision", (vision, 3, 64), 0.3)).freeze()


@torch.no_grad()
def features(model):
    return F.normalize(model.image(IMAGES), dim=-1), F.normalize(model.text(), dim=-1)


@torch.no_grad()
def engine_features(clip_model, group):
    native = PromptedCLIP(clip_model, Learner(), worded_texts(tokenizer().encode, NAMES, TEMPLATE))
    native.cascade(group)
    return native.image_features(IMAGES), native.class_features()


@pytest.mark.parametrize("depths", DEPTHS)
def test_calls_equal_the_engine_and_remove_restores(model, clip_model, depths):
    plain = features(model)
    for found, expected in zip(plain, engine_features(clip_model, None), strict=True):
        torch.testing.assert_close(found, expected, atol=FEATURES, rtol=0)
    with trainers.boosted(model.model, boosting(*depths)) as same:
        assert same is model.model
        for found, expected, before, depth in zip(
            features(model), engine_features(clip_model, boosting(*depths)), plain, depths[::-1], strict=True
        ):
            torch.testing.assert_close(found, expected, atol=FEATURES, rtol=0)
            assert ((found - before).abs().max() > 1e-2) == (depth > 0)
    for found, before in zip(features(model), plain, strict=True):
        assert torch.equal(found, before)


def test_batch_of_as_many_images_as_tokens_is_accepted(model, clip_model):
    """The sequence's shape then does not tell its two orders apart."""
    images = randn(4, "square", (SIZES.grid**2 + 1, 3, SIZES.image, SIZES.image))
    native = PromptedCLIP(clip_model, Learner(), worded_texts(tokenizer().encode, NAMES, TEMPLATE))
    native.cascade(boosting(0, 2))
    with torch.no_grad(), trainers.boosted(model.model, boosting(0, 2)):
        found = F.normalize(model.image(images), dim=-1)
        torch.testing.assert_close(found, native.image_features(images), atol=FEATURES, rtol=0)


def test_model_of_prompt_file_is_checked(state, tmp_path):
    model = openai(state)
    info = BoostingInfo(student_weights=fingerprint(model.model.visual.proj, model.model.text_projection))
    save_boosting(tmp_path / "fits.safetensors", boosting(2, 2), info)
    save_boosting(tmp_path / "other.safetensors", boosting(2, 2), dataclasses.replace(info, student_weights="ab"))
    for kind in ("openai", "open_clip", "hugging face"):
        model = MODELS[kind](state).model
        trainers.inject(model, tmp_path / "fits.safetensors").remove()
        with pytest.raises(CheckpointError, match="student weights ab .*Use the backbone"):
            trainers.inject(model, tmp_path / "other.safetensors")


def test_text_that_is_too_long_is_rejected(model):
    rows = torch.full((1, 77), 320).index_fill(1, torch.tensor([0]), SOS).index_fill(1, torch.tensor([73]), EOT)
    trainers.inject(model.model, boosting(2, 0))
    with pytest.raises(HostError, match="no room for 5 boosting tokens"):
        if isinstance(model, HuggingFace):
            model.model.get_text_features(input_ids=rows[:, :74])
        else:
            model.model.encode_text(rows)


def timm_loop(trunk, group):
    """The features of a timm ViT without class token and with attention pooling, with tokens after its patches."""
    x = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(IMAGES)))
    patches = x.shape[1]
    for i, block in enumerate(trunk.blocks):
        if i < len(group.vision):
            tokens = trunk.norm_pre(group.vision[0]) if i == 0 else group.vision[i]
            x = torch.cat([x[:, :patches], tokens.expand(len(x), -1, -1)], dim=1)
        x = block(x)
    return trunk.forward_head(trunk.norm(x[:, :patches]))


def siglip():
    """A small SigLIP of open_clip: a timm ViT, and a text tower without causal mask."""
    model = pytest.importorskip("open_clip.model")
    pytest.importorskip("timm")
    torch.manual_seed(0)
    vision = {"timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none", "image_size": SIZES.image}
    text = {"context_length": 16, "vocab_size": 300, "width": 64, "heads": 1, "layers": 2}
    text |= {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}
    return model.CustomTextCLIP(64, vision, text, init_logit_bias=-10.0).eval()


@pytest.mark.parametrize("depth", [1, 3, 6])
def test_image_half_of_siglip_equals_an_explicit_loop(depth):
    model = siglip()
    assert len(model.visual.trunk.blocks) == 6
    group = PromptGroup(torch.zeros(0, 0, 64), randn(2, "vision", (depth, 3, 64), 0.3)).freeze()
    with torch.no_grad():
        plain, expected = model.encode_image(IMAGES), model.visual.head(timm_loop(model.visual.trunk, group))
        with trainers.boosted(model, group):
            torch.testing.assert_close(model.encode_image(IMAGES), expected, atol=FEATURES, rtol=0)
        assert (expected - plain).abs().max() > 1e-3
        assert torch.equal(model.encode_image(IMAGES), plain)


def test_text_half_of_siglip_is_rejected_and_nothing_changes():
    model = siglip()
    with torch.no_grad():
        before = model.encode_image(IMAGES)
        with pytest.raises(HostError, match="text tower has no causal mask.*DEPTH_TEXT 0"):
            trainers.inject(model, boosting(2, 2))
        assert torch.equal(model.encode_image(IMAGES), before)


def test_timm_vision_tower_equals_an_explicit_loop():
    timm = pytest.importorskip("timm.models.vision_transformer")
    torch.manual_seed(0)
    trunk = timm.VisionTransformer(
        img_size=16,
        patch_size=8,
        embed_dim=64,
        depth=LAYERS,
        num_heads=2,
        num_classes=0,
        class_token=False,
        global_pool="map",
    ).eval()
    group = boosting(0, 2)
    with torch.no_grad():
        plain = trunk(IMAGES)
        expected = timm_loop(trunk, group)
        with trainers.boosted(trunk, group):
            torch.testing.assert_close(trunk(IMAGES), expected, atol=FEATURES, rtol=0)
        assert (expected - plain).abs().max() > 1e-3
        assert torch.equal(trunk(IMAGES), plain)


@pytest.mark.parametrize("kind", ["CLIP", "CustomTextCLIP"])
@pytest.mark.parametrize("depth", [1, 3])
def test_text_tower_with_another_vocabulary_equals_an_explicit_loop(kind, depth):
    """As MetaCLIP 2 has it in open_clip: EOT is token 2 of its own tokenizer, and does not have the highest id."""
    config = pytest.importorskip("open_clip.model")
    vision = config.CLIPVisionCfg(layers=1, width=64, head_width=64, patch_size=8, image_size=16)
    text = config.CLIPTextCfg(vocab_size=1000, width=64, heads=2, layers=3, pool_type="eos", eos_id=2)
    model = getattr(config, kind)(32, vision, text).eval()
    tower, tokens = getattr(model, "text", model), randn(2, "text", (depth, 5, 64), 0.3)
    ids = torch.ones(3, 77, dtype=torch.long)
    for row, words in zip(ids, (5, 9, 3), strict=True):
        row[: words + 2] = torch.tensor([0, *range(10, 10 + words), 2])
    with torch.no_grad():
        x = tower.token_embedding(ids)
        x = torch.cat([x[:, :1], tokens[0].expand(3, -1, -1), x[:, 1:-5]], dim=1) + tower.positional_embedding
        for i, block in enumerate(tower.transformer.resblocks):
            if 0 < i < depth:
                x = torch.cat([x[:, :1], tokens[i].expand(3, -1, -1), x[:, 6:]], dim=1)
            x = block(x, attn_mask=torch.full((77, 77), float("-inf")).triu(1))
        expected = tower.ln_final(x)[torch.arange(3), torch.tensor([6, 10, 4]) + 5]
        plain = model.encode_text(ids)
        with trainers.boosted(model, PromptGroup(tokens, torch.zeros(0, 0, 64))):
            found = model.encode_text(ids)
        torch.testing.assert_close(found, expected @ tower.text_projection, atol=FEATURES, rtol=0)
        assert (found - plain).abs().max() > 1e-2 and torch.equal(model.encode_text(ids), plain)


def test_text_tower_without_causal_mask_is_rejected():
    transformer = pytest.importorskip("open_clip.transformer")
    text = transformer.TextTransformer(width=64, heads=1, layers=LAYERS, no_causal_mask=True, pool_type="last")
    with pytest.raises(HostError, match="text tower has no causal mask.*DEPTH_TEXT 0"):
        trainers.inject(torch.nn.ModuleDict({"text": text}), boosting(2, 0))


def test_hugging_face_pipeline_is_boosted(tmp_path):
    transformers = hf_folder.hugging_face()
    folder = hugging_face_folder(tmp_path)
    pipeline = transformers.pipeline("zero-shot-image-classification", model=str(folder), device="cpu")
    pixels = np.random.RandomState(0).randint(0, 255, (40, 30, 3)).astype(np.uint8)
    picture = Image.fromarray(pixels)

    def scores():
        found = pipeline(picture, candidate_labels=NAMES, hypothesis_template=TEMPLATE)
        return torch.tensor([next(each["score"] for each in found if each["label"] == name) for name in NAMES])

    before, group = scores(), boosting(2, 3)
    clip_model = load_clip(str(folder))
    words = worded_texts(tokenizer_of(clip_model).encode, NAMES, TEMPLATE, special_tokens(clip_model)[1])
    native = PromptedCLIP(clip_model, Learner(), words)
    native.cascade(group)
    images = pipeline.image_processor(picture, return_tensors="pt")["pixel_values"]
    with torch.no_grad(), trainers.boosted(pipeline.model, group):
        torch.testing.assert_close(scores(), native(images)[0].softmax(dim=0), atol=1e-5, rtol=0)
    assert (before - native(images)[0].softmax(dim=0)).abs().max() > 1e-3
    assert torch.equal(scores(), before)


def hugging_face_folder(folder):
    """Write a small model of Hugging Face with its tokenizer and image processor."""
    spec = dataclasses.replace(SIZES, vocab=len(hf_folder.vocabulary()))
    tower = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": LAYERS, "num_attention_heads": 1}
    tower |= {"hidden_act": "quick_gelu"}
    state = clip_state_dict(spec, 3, set(range(spec.vocab)))
    state["logit_scale"] = torch.tensor(3.0)
    vision = tower | {"image_size": SIZES.image, "patch_size": 8, "projection_dim": SIZES.embed_dim}
    text = tower | {"max_position_embeddings": 77, "projection_dim": SIZES.embed_dim}
    return hf_folder.save(folder / "clip", state, text, vision)


def test_forward_of_hugging_face_is_boosted(state, clip_model):
    """What `pipeline("zero-shot-image-classification")` calls."""
    model = hugging_face(state).model
    native = PromptedCLIP(clip_model, Learner(), worded_texts(tokenizer().encode, NAMES, TEMPLATE))
    native.cascade(boosting(2, 3))
    ids = token_ids(16)
    mask = (torch.arange(16) <= ids.argmax(dim=-1)[:, None]).long()
    with torch.no_grad(), trainers.boosted(model, boosting(2, 3)):
        output = model(input_ids=ids, attention_mask=mask, pixel_values=IMAGES)
        torch.testing.assert_close(output.logits_per_image, native(IMAGES), atol=2e-3, rtol=0)


def test_model_that_is_used_by_parts_needs_no_other_tower(model):
    """A model may encode images only, with text tokens in its other tower."""
    with torch.no_grad(), trainers.boosted(model.model, boosting(2, 3)):
        assert model.image(IMAGES).isfinite().all()
