"""CLIPs of open_clip and Hugging Face as students: weights, function, tokenizer and images of their own configuration."""

import importlib
import json
import logging

import hf_folder
import numpy as np
import pytest
import torch
import toy
from PIL import Image
from plain import image_features, text_features
from random_weights import Spec, clip_state_dict, randn
from safetensors.torch import save_file
from torch.nn import functional as F

import trainers
from trainers.backbones import BackboneError, load_clip, source_of, tokenizer_of
from trainers.cli import train
from trainers.cli.program import guarded
from trainers.config import ConfigError
from trainers.deploy.plain import PlainClassifier
from trainers.engine import Learner, PromptedCLIP, PromptGroup, host_texts, special_tokens, worded_texts
from trainers.engine.symbols import arrange, slots
from trainers.engine.tokens import BOOSTING
from trainers.experiments.setup import assemble
from trainers.method.prompt_file import CheckpointError, read_info

NAMES = ["ox", "the tree", "golden retriever"]
HEADS = {"GELU": 32, "QuickGELU": 16, "tanh": 64}
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 60,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
}
VISION = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
    "hidden_act": "quick_gelu",
}


def architecture(kind="GELU", **more):
    """Return the configuration of a small open_clip model whose towers differ from OpenAI's and from each other."""
    vision = {"image_size": 16, "layers": 3, "width": 64, "patch_size": 8, "head_width": HEADS[kind], "mlp_ratio": 3.0}
    text = {"context_length": 60, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 3}
    if kind == "tanh":
        special = {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-3}}
        vision, text = vision | special, text | special
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text, "quick_gelu": kind == "QuickGELU"}
    for key, value in more.items():
        node = config
        *parts, last = key.split("__")
        for part in parts:
            node = node[part]
        node[last] = value
    return config


def saved_open_clip(folder, config, **images):
    """Write a random model as open_clip's hub does; returns its name and the model."""
    open_clip = pytest.importorskip("open_clip")
    kind = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    settings = {key: value for key, value in config.items() if key != "custom_text"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = kind(**settings).eval()
        for parameter in model.parameters():
            if parameter.dim():
                parameter.data.add_(torch.randn_like(parameter) * 0.05)
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": images}))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return f"open_clip:{folder}", model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Hugging Face folder with its own vocabulary, 60 positions, GELU and another epsilon in one tower."""
    spec = Spec(64, 64, 32, 3, 3, 8, 2, len(hf_folder.vocabulary()), 60)
    state = clip_state_dict(spec, 3, set(range(spec.vocab)))
    return hf_folder.save(tmp_path_factory.mktemp("hf") / "clip", state, TEXT, VISION, MEAN, STD)


def agree(clip_model):
    """Compare the engine with the plain definition: values within 1e-5, gradients within 1e-5 of their norm."""
    encode, (sos, eot) = tokenizer_of(clip_model).encode, special_tokens(clip_model)
    group = PromptGroup(randn(2, "text", (2, 3, 64), 0.3), randn(2, "vision", (3, 2, 64), 0.3))
    model = PromptedCLIP(clip_model, Learner(), host_texts(encode, NAMES, 0, eot=eot))
    model.cascade(group)
    images = randn(1, "images", (3, 3, 16, 16))
    sequences = [(sos, *arrange(text, slots(BOOSTING, 3), "boosting_first")) for text in model.texts]
    text = text_features(clip_model, sequences, [[], list(group.text)])
    vision = image_features(clip_model, images, [list(group.vision)])
    plain = clip_model.logit_scale.exp() * F.normalize(vision, dim=-1) @ F.normalize(text, dim=-1).t()
    fast = model(images)
    torch.testing.assert_close(fast / 100, plain / 100, atol=1e-5, rtol=0)
    found, wanted = (
        torch.autograd.grad(logits.softmax(dim=1)[:, 0].sum(), list(group.parameters())) for logits in (fast, plain)
    )
    for a, b in zip(found, wanted, strict=True):
        assert b.norm() > 0 and (a - b).norm() <= 1e-5 * b.norm()


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("kind", HEADS)
def test_open_clip_features_equal_its_own(tmp_path, kind, custom):
    name, model = saved_open_clip(tmp_path, architecture(kind, custom_text=custom))
    ours = load_clip(name)
    import open_clip

    texts, images = [f"a photo of {each}." for each in NAMES], randn(1, "images", (3, 3, 16, 16))
    with torch.no_grad():
        theirs = [model.encode_image(images), model.encode_text(open_clip.SimpleTokenizer(context_length=60)(texts))]
    zero_shot = PromptedCLIP(ours, Learner(), worded_texts(tokenizer_of(ours).encode, NAMES, "a photo of {}."))
    found = [zero_shot.image_features(images), zero_shot.class_features()]
    for a, b in zip(found, theirs, strict=True):
        torch.testing.assert_close(a, F.normalize(b, dim=-1), atol=1e-5, rtol=0)
    agree(ours)


def test_open_clip_architecture_with_file_or_tag(tmp_path, monkeypatch):
    open_clip = pytest.importorskip("open_clip")
    _, model = saved_open_clip(tmp_path, architecture("QuickGELU"))
    for name, quick in (("student-a", False), ("student-a-quickgelu", True)):
        (tmp_path / f"{name}.json").write_text(json.dumps(architecture("GELU") | {"quick_gelu": quick}))
        open_clip.add_model_config(tmp_path / f"{name}.json")
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, tmp_path / "own.pt"
    )
    assert load_clip(f"open_clip:student-a/{tmp_path / 'own.pt'}").described["text"]["activation"] == "gelu"
    tag = {"file": "own.pt", "quick_gelu": True, "mean": MEAN, "std": STD, "interpolation": "bilinear"}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda model, found: tag if found == "cached" else {})
    monkeypatch.setattr(open_clip, "download_pretrained", lambda settings: str(tmp_path / "own.pt"))
    source = source_of("open_clip:student-a-quickgelu/cached")
    assert source.images.interpolation == "bilinear" and list(source.images.mean) == MEAN
    assert load_clip("open_clip:student-a-quickgelu/cached").described["vision"]["activation"] == "quick_gelu"
    with pytest.raises(BackboneError, match="trained with QuickGELU.*Use student-a-quickgelu/cached"):
        load_clip("open_clip:student-a/cached")


def test_open_clip_tag_in_the_hubs_cache_needs_no_network(tmp_path, monkeypatch):
    """Weights of a tag where open_clip's download leaves them; an architecture that cannot be computed is not downloaded."""
    open_clip, constants = pytest.importorskip("open_clip"), pytest.importorskip("huggingface_hub").constants
    folder = tmp_path / "hub/models--someone--small/snapshots/abc"
    for each in (folder, folder.parents[1] / "refs"):
        each.mkdir(parents=True)
    (folder.parents[1] / "refs/main").write_text("abc")
    _, model = saved_open_clip(tmp_path, config := architecture("GELU"))
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    text = config["text_cfg"] | {"hf_tokenizer_name": "facebook/xlm-v-base"}
    for name, written in (("cached-a", config), ("cached-b", config | {"text_cfg": text})):
        (tmp_path / f"{name}.json").write_text(json.dumps(written))
        open_clip.add_model_config(tmp_path / f"{name}.json")
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, {"tag": {"hf_hub": "someone/small/"}})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(load_clip("open_clip:cached-a/tag").visual.proj, model.visual.proj)
    monkeypatch.setattr(open_clip, "download_pretrained", lambda settings: pytest.fail("downloads"))
    with pytest.raises(BackboneError, match="hf_tokenizer_name is 'facebook/xlm-v-base'"):
        load_clip("open_clip:cached-b/tag")


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"vision_cfg__timm_model_name": "vit_base"}, "timm_model_name is 'vit_base'; expected it not to be set"),
        ({"vision_cfg__ls_init_value": 1e-5}, "ls_init_value is 1e-05"),
        ({"vision_cfg__no_ln_pre": True}, "no_ln_pre is True"),
        ({"vision_cfg__pool_type": "avg"}, "vision_cfg.pool_type is 'avg'; expected 'tok'"),
        ({"vision_cfg__attentional_pool": True}, "attentional_pool is True"),
        ({"vision_cfg__qk_norm": True}, "qk_norm is True"),
        ({"vision_cfg__head_width": 48}, "heads of 48 channels do not divide"),
        ({"text_cfg__no_causal_mask": True}, "no_causal_mask is True"),
        ({"text_cfg__pool_type": "last"}, "text_cfg.pool_type is 'last'; expected 'argmax' or 'eos'"),
        ({"text_cfg__hf_model_name": "roberta-base"}, "hf_model_name is 'roberta-base'"),
        (
            {"text_cfg__hf_tokenizer_name": "bert"},
            "hf_tokenizer_name is 'bert', a tokenizer of Hugging Face; expected CLIP's",
        ),
        ({"text_cfg__proj_bias": True}, "proj_bias is True"),
        ({"text_cfg__vocab_size": 32000}, "vocab_size is 32000; expected 49408"),
        ({"text_cfg__norm_kwargs": {"elementwise_affine": False}}, "norm_kwargs has elementwise_affine"),
        ({"text_cfg__layers": 2}, "expected ClipSizes"),
        ({"init_logit_bias": -10}, "init_logit_bias is -10"),
        ({"something_new": 3}, "something_new is 3; expected it not to be set"),
    ],
)
def test_open_clip_setting_that_the_engine_does_not_compute_is_named(tmp_path, setting, message):
    name, _ = saved_open_clip(tmp_path, architecture())
    config = {"model_cfg": architecture(**setting), "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(BackboneError, match=message):
        load_clip(name)


def test_open_clip_image_settings_that_differ_are_named(tmp_path):
    name, _ = saved_open_clip(tmp_path, architecture(), resize_mode="squash")
    with pytest.raises(BackboneError, match="resize_mode is 'squash'"):
        load_clip(name)


def test_hugging_face_folder_matches_plain_definition(folder):
    model = load_clip(str(folder))
    heads = {tower.resblocks[0].attn.num_heads for tower in (model.transformer, model.visual.transformer)}
    assert heads == {2, 4} and model.transformer.resblocks[0].ln_1.eps == 1e-6
    assert isinstance(model.transformer.resblocks[0].mlp.gelu, torch.nn.GELU)
    assert type(model.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    agree(model)


def test_hugging_face_features_equal_its_own(folder):
    transformers = hf_folder.hugging_face()
    theirs = transformers.CLIPModel.from_pretrained(folder).eval()
    encoder = transformers.CLIPTokenizer.from_pretrained(folder)
    texts = [f"a photo of {name}." for name in NAMES]
    model = load_clip(str(folder))
    ours = PromptedCLIP(
        model, Learner(), worded_texts(tokenizer_of(model).encode, NAMES, "a photo of {}.", special_tokens(model)[1])
    )
    pixels = Image.fromarray(np.random.RandomState(0).randint(0, 255, (40, 30, 3)).astype(np.uint8))
    images = transformers.CLIPImageProcessor.from_pretrained(folder)(pixels, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        found = theirs(pixel_values=images, **encoder(texts, padding=True, return_tensors="pt"))
        torch.testing.assert_close(
            ours.image_features(images), F.normalize(found.image_embeds, dim=-1), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(ours.class_features(), F.normalize(found.text_embeds, dim=-1), atol=1e-5, rtol=0)


def test_hugging_face_tokenizer_json_has_the_same_tokens(folder, tmp_path):
    copy = copied(folder, tmp_path)
    tokens = json.loads((copy / "vocab.json").read_text())
    merges = [list(pair) for pair in hf_folder.MERGES]
    model = {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": tokens, "merges": merges}
    (copy / "tokenizer.json").write_text(json.dumps({"model": model}))
    (copy / "merges.txt").unlink()
    texts = ["The tree, the ox & a fee", "été 12"]
    one, other = (tokenizer_of(load_clip(str(each))) for each in (folder, copy))
    assert [one.encode(text) for text in texts] == [other.encode(text) for text in texts]
    assert len(one.encode("the ox tree")) == 2 + 3  # t, r, ee


def copied(folder, target):
    """Copy a folder's files."""
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


@pytest.mark.parametrize(
    "file, key, value, message",
    [
        ("config.json", "model_type", "siglip", "model_type in config.json is 'siglip'; expected clip"),
        ("config.json", "auto_map", {"AutoModel": "code.py"}, "auto_map"),
        ("config.json", "text_config__hidden_act", "relu", "text_config: activation 'relu'; expected one of"),
        ("config.json", "text_config__eos_token_id", 7, "reads its features at token 7"),
        ("config.json", "vision_config__num_attention_heads", 5, "5 heads do not divide the width of 64"),
        ("config.json", "vision_config__image_size", 24, "size in preprocessor_config.json"),
        ("config.json", "text_config__num_hidden_layers", 2, "expected ClipSizes"),
        ("preprocessor_config.json", "do_center_crop", False, "do_center_crop .* False; expected True"),
        ("preprocessor_config.json", "rescale_factor", 1.0, "rescale_factor"),
        ("preprocessor_config.json", "resample", 0, "resample is 0; expected 2"),
        ("preprocessor_config.json", "image_mean", [0.5], "no image_mean"),
        ("tokenizer_config.json", "tokenizer_class", "BertTokenizer", "tokenizer_class 'BertTokenizer'"),
        ("vocab.json", "a</w>", None, "1 bytes are not in the vocabulary"),
    ],
)
def test_hugging_face_setting_that_the_engine_does_not_compute_is_named(folder, tmp_path, file, key, value, message):
    copy = copied(folder, tmp_path)
    content = json.loads((copy / file).read_text())
    node = content
    *parts, last = key.split("__")
    for part in parts:
        node = node[part]
    if value is None:
        del node[last]
    else:
        node[last] = value
    (copy / file).write_text(json.dumps(content))
    with pytest.raises(BackboneError, match=message):
        load_clip(str(copy))


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "vocab.json", "model.safetensors"])
def test_hugging_face_folder_without_a_file_is_one_error(folder, tmp_path, file):
    copy = copied(folder, tmp_path)
    (copy / file).unlink()
    with pytest.raises(BackboneError, match=f"^backbone '{copy}'"):
        load_clip(str(copy))


@pytest.fixture(scope="module")
def root(tmp_path_factory, folder):
    """Pictures, a teacher, and a student of each library with images of its own."""
    root = tmp_path_factory.mktemp("students")
    toy.draw(root / "toy")
    toy.save_clip(root / "teacher.pt", toy.TEACHER, seed=4)
    copied(folder, (root / "hugging_face").mkdir() or root / "hugging_face")
    if importlib.util.find_spec("open_clip"):
        saved_open_clip(root / "open_clip", architecture("GELU"), mean=MEAN, std=STD)
    return root


def student(root, library):
    """The name of a library's student."""
    if library == "open_clip":
        pytest.importorskip("open_clip")
        return f"open_clip:{root / library}"
    return str(root / library)


def line(root, library, trainer, folder, *flags, **more):
    """The arguments of a run on a library's student; the images come from its configuration."""
    arguments = toy.command(root, trainer, folder, *flags, MODEL__BACKBONE__NAME=student(root, library), **more)
    place = arguments.index("INPUT.SIZE")
    return arguments[:place] + arguments[place + 2 :]


@pytest.mark.parametrize("library", ["open_clip", "hugging_face"])
def test_phase_1_and_all_hosts_run(root, tmp_path, library):
    train.run(line(root, library, "CasPL", tmp_path / "boost"))
    info = read_info(tmp_path / "boost" / "boosting.safetensors")
    assert info.student_function["text"]["activation"] == "gelu" and info.student_function["context"] == 60
    assert info.student_function["images"] == {"size": 16, "mean": MEAN, "std": STD, "interpolation": "bicubic"}
    more = {"TRAINER__CASPL__CHECKPOINT": tmp_path / "boost"}
    options = {
        "PromptKD": {"TRAINER__PROMPTKD__TEACHER": root / "teacher.pt", "TRAINER__PROMPTKD__PROMPT_DEPTH_VISION": 2},
        "TCP": {"TRAINER__TCP__LAYER": 1},
    }
    for host in ("CoOp", "CoCoOp", "MaPLe", "PromptSRC", "KgCoOp", "TCP", "PromptKD"):
        folder = tmp_path / host
        trained = train.run(line(root, library, f"CasPL_{host}", folder, **more, **options.get(host, {})))
        again = train.run(
            line(
                root,
                library,
                f"CasPL_{host}",
                folder,
                "--eval-only",
                "--model-dir",
                str(folder),
                **options.get(host, {}),
            )
        )
        assert again["accuracy"] == trained["accuracy"] >= 0
    assert train.run(line(root, library, "ZeroshotCLIP", tmp_path / "zero"))["accuracy"] >= 0
    classifier, images = trainers.load(tmp_path / "MaPLe"), randn(1, "images", (3, 3, 16, 16))
    with torch.no_grad():  # the module that is exported
        torch.testing.assert_close(PlainClassifier(classifier)(images), classifier.model(images), atol=1e-4, rtol=0)


def test_images_of_the_backbone_are_used_unless_they_are_given(root, tmp_path, capsys):
    pairs = toy.options(root, MODEL__BACKBONE__NAME=root / "hugging_face")
    place = pairs.index("INPUT.SIZE")
    pairs = ["TRAINER.NAME", "CoOp", *pairs[:place], *pairs[place + 2 :]]
    read = [pair for pair in zip(pairs[::2], pairs[1::2], strict=True) if not pair[0].startswith("TRAINER.CASPL")]
    read = [item for pair in read if pair[0] in ("TRAINER.NAME",) or "TRAINER" not in pair[0] for item in pair]
    cfg = assemble([], read)
    assert tuple(cfg.INPUT.SIZE) == (16, 16) and list(cfg.INPUT.PIXEL_MEAN) == MEAN
    assert cfg.INPUT.INTERPOLATION == "bicubic" and list(cfg.INPUT.PIXEL_STD) == STD
    with pytest.raises(ConfigError, match="INPUT.PIXEL_MEAN: .*0.1.* expected .*0.5"):
        assemble([], [*read, "INPUT.PIXEL_MEAN", "[0.1, 0.4, 0.3]"])
    arguments = line(root, "hugging_face", "CoOp", tmp_path / "run")
    assert guarded(lambda: train.run([*arguments, "INPUT.SIZE", "(24, 24)"])) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "INPUT.SIZE" in error and not (tmp_path / "run").exists()


def test_prompt_of_another_activation_is_rejected(root, tmp_path):
    train.run(line(root, "hugging_face", "CasPL", tmp_path / "boost"))
    other = copied(root / "hugging_face", (tmp_path / "other").mkdir() or tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["text_config"]["hidden_act"] = "quick_gelu"
    (other / "config.json").write_text(json.dumps(config))
    arguments = line(
        root, "hugging_face", "CasPL_CoOp", tmp_path / "run", TRAINER__CASPL__CHECKPOINT=tmp_path / "boost"
    )
    arguments[arguments.index("MODEL.BACKBONE.NAME") + 1] = str(other)
    with pytest.raises(CheckpointError, match="text .*'gelu'.* has .*'quick_gelu'"):
        train.run(arguments)


@pytest.mark.parametrize("library", ["open_clip", "hugging_face"])
def test_load_logs_how_it_is_computed(root, library, caplog):
    with caplog.at_level(logging.INFO):
        load_clip(student(root, library))
    assert "Loaded CLIP" in caplog.text and "GELU" in caplog.text
