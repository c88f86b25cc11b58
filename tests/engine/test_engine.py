"""Compare the engine with the plain definition, forward and gradient."""

import itertools

import pytest
import torch
from plain import image_features, text_features
from random_weights import Spec, clip_state_dict, randn

from trainers.backbones import build_clip, tokenizer
from trainers.engine import encode_image, encode_text, host_texts, layout_of, worded_texts
from trainers.engine.layout import TextLayout
from trainers.engine.rows import pick, spread
from trainers.engine.symbols import ClassText, Slot, arrange, slots
from trainers.engine.tokens import BOOSTING, EOT, SOS

LAYERS = 3
SMALL = Spec(vision_width=64, text_width=64, embed_dim=32, vision_layers=LAYERS, text_layers=LAYERS, patch=8, grid=2)
DEPTHS = list(itertools.product(range(LAYERS + 1), repeat=2))
NAMES = ["tree", "golden retriever dog", "a", "Boeing 737-800", "hot_air_balloon festival at night"]


def encode(text):
    """Return CLIP's token ids of a text."""
    return tokenizer().encode(text)


PATHS = {
    "cpu": {},
    "gpu": {},
    "gpu with copies of the prefix": {"ROWS_WITH_PREFIX": 8},
    "gpu with groups of rows": {"COPIES": 0, "ROWS": 16},
}


@pytest.fixture(params=PATHS, autouse=True)
def path(request, monkeypatch):
    """Run each test with both implementations of the towers, and with all kinds of plans."""
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", request.param == "cpu")
    for name, value in PATHS[request.param].items():
        monkeypatch.setattr(f"trainers.engine.plan.{name}", value)
    return request.param


@pytest.fixture(scope="module")
def clip_model():
    tokens = {SOS, EOT} | {t for name in NAMES for t in encode(f"a photo of a {name.replace('_', ' ')}.")}
    return build_clip(clip_state_dict(SMALL, 3, tokens))


def stack(name, depth, tokens, *lead):
    """Draw `depth` tensors (*lead, tokens, 64) that require gradients."""
    return [randn(5, f"{name}.{i}", (*lead, tokens, 64), 0.3).requires_grad_() for i in range(depth)]


def sequences(texts, boosting, order):
    return [(SOS, *arrange(text, slots(BOOSTING, boosting), order)) for text in texts]


def agree(fast, plain, leaves):
    """Assert equal values within 1e-5 and equal gradients of a random projection within 1e-4 of their norm."""
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-5)
    if not leaves:
        return
    weights = randn(1, "weights", fast.shape)
    got = torch.autograd.grad((fast * weights).sum(), leaves)
    want = torch.autograd.grad((plain * weights).sum(), leaves)
    for a, b in zip(got, want, strict=True):
        assert b.norm() > 0
        assert (a - b).norm() <= 1e-4 * b.norm()


def same_directions(a, b):
    """Assert that the normalised features agree within 1e-6."""
    torch.testing.assert_close(a / a.norm(dim=-1, keepdim=True), b / b.norm(dim=-1, keepdim=True), atol=1e-6, rtol=0)


@pytest.mark.parametrize("order", ["boosting_first", "host_first"])
@pytest.mark.parametrize("depths", DEPTHS)
@pytest.mark.parametrize("lengths", [(4, 2), (1, 3)])
def test_text_with_two_groups_matches_plain(clip_model, depths, lengths, order):
    n_host, n_boost = (n if d else 0 for n, d in zip(lengths, depths, strict=True))
    stacks = [stack("host", depths[0], lengths[0]), stack("boost", depths[1], lengths[1])]
    texts = host_texts(encode, NAMES, n_host, "a photo of a" if n_host == 1 else "")
    layout = layout_of(texts, n_boost, order)
    plain = text_features(clip_model, sequences(texts, n_boost, order), stacks)
    agree(encode_text(clip_model, layout, stacks)[0], plain, [*stacks[0], *stacks[1]])


@pytest.mark.parametrize("order", ["boosting_first", "host_first"])
@pytest.mark.parametrize("depth", range(1, LAYERS + 1))
@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_text_with_other_class_position_matches_plain(clip_model, position, depth, order):
    stacks = [stack("host", depth, 4), stack("boost", LAYERS, 3)]
    texts = host_texts(encode, NAMES, 4, "", position)
    plain = text_features(clip_model, sequences(texts, 3, order), stacks)
    agree(encode_text(clip_model, layout_of(texts, 3, order), stacks)[0], plain, stacks[0] + stacks[1])


@pytest.mark.parametrize("order", ["boosting_first", "host_first"])
@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_text_with_context_per_class_matches_plain(clip_model, position, order):
    own, boost = stack("host", 2, 4, len(NAMES)), stack("boost", 2, 3)
    texts = host_texts(encode, NAMES, 4, "", position)
    plain = text_features(clip_model, sequences(texts, 3, order), [own, boost])
    layout = layout_of(texts, 3, order, distinct=[0])
    fast = encode_text(clip_model, layout, [[tokens[None] for tokens in own], boost])[0]
    agree(fast, plain, own + boost)


@pytest.mark.parametrize("order", ["boosting_first", "host_first"])
@pytest.mark.parametrize("position", ["end", "middle"])
@pytest.mark.parametrize("depth", [1, 2])
def test_text_with_context_per_image_matches_plain(clip_model, depth, position, order):
    images, boost = stack("host", depth, 4, 3), stack("boost", 2, 3)
    texts = host_texts(encode, NAMES, 4, "", position)
    each = [text_features(clip_model, sequences(texts, 3, order), [[t[b] for t in images], boost]) for b in range(3)]
    fast = encode_text(clip_model, layout_of(texts, 3, order), [[t[:, None] for t in images], boost])
    agree(fast, torch.stack(each), images + boost)


@pytest.mark.parametrize("depths", DEPTHS)
@pytest.mark.parametrize("lengths", [(4, 2), (1, 3)])
def test_vision_with_two_groups_matches_plain(clip_model, depths, lengths):
    stacks = [stack("boost", depths[0], lengths[0]), stack("host", depths[1], lengths[1])]
    images = randn(5, "images", (2, 3, 16, 16)).requires_grad_()
    plain = image_features(clip_model, images, stacks)
    agree(encode_image(clip_model.visual, images, stacks), plain, [*stacks[0], *stacks[1], images])


@pytest.mark.parametrize("at_a_time", [1, 2, 3])
def test_image_chunks_match_plain(clip_model, monkeypatch, at_a_time):
    stacks = [stack("boost", LAYERS, 3), stack("host", 1, 2)]
    images = randn(5, "images", (3, 3, 16, 16)).requires_grad_()
    monkeypatch.setattr("trainers.engine.vision_cpu.AT_A_TIME", at_a_time)
    fast = encode_image(clip_model.visual, images, stacks)
    agree(fast, image_features(clip_model, images, stacks), [*stacks[0], *stacks[1], images])


def test_no_groups_matches_stock_clip(clip_model):
    import clip

    images = randn(5, "images", (3, 3, 16, 16))
    same_directions(encode_image(clip_model.visual, images), clip_model.encode_image(images))
    for template in ("a photo of a {}.", "{} a photo"):
        words = clip.tokenize([template.replace("{}", name.replace("_", " ")) for name in NAMES])
        fast = encode_text(clip_model, layout_of(worded_texts(encode, NAMES, template)))[0]
        same_directions(fast, clip_model.encode_text(words))


@pytest.mark.parametrize("chunk", [1, 2, 5, 9])
def test_class_chunks_match_unchunked(clip_model, chunk):
    stacks = [stack("host", 2, 4), stack("boost", LAYERS, 3)]
    layout = layout_of(host_texts(encode, NAMES, 4), 3)
    agree(
        encode_text(clip_model, layout, stacks, chunk),
        encode_text(clip_model, layout, stacks),
        stacks[0] + stacks[1],
    )


def test_padding_by_longer_name_changes_nothing(clip_model):
    stacks = [stack("host", 2, 4)]
    short = encode_text(clip_model, layout_of(host_texts(encode, NAMES[:1], 4)), stacks)[0]
    padded = encode_text(clip_model, layout_of(host_texts(encode, NAMES, 4)), stacks)[0, :1]
    same_directions(padded, short)


def test_prefix_is_longest_shared_beginning():
    layout = layout_of(host_texts(encode, NAMES, 2, "a photo of a"), 3)
    assert layout.prefix == (SOS, *slots(1, 3), *slots(0, 2), *encode("of a"))
    assert layout_of(host_texts(encode, NAMES, 4, "", "front"), 3).prefix == (SOS, *slots(1, 3))
    assert layout_of(host_texts(encode, NAMES, 4), distinct=[0]).prefix == (SOS,)
    assert len(layout_of(worded_texts(encode, ["tree"], "a {}")).prefix) == 3  # all but EOT


def test_sequence_of_77_tokens_is_accepted(clip_model):
    texts = [
        ClassText("long", (), (*encode("tree " * 76)[:75], EOT)),
        ClassText("tree", (), (*encode("tree"), EOT)),
    ]
    fast = encode_text(clip_model, layout_of(texts))[0]
    torch.testing.assert_close(fast, text_features(clip_model, sequences(texts, 0, "host_first"), []))


def test_too_long_name_raises_with_name():
    with pytest.raises(ValueError, match=r"'tree tree.*': too long, 8\d tokens.* expected at most 77"):
        layout_of(host_texts(encode, ["tree", "tree " * 70], 8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: layout_of([]), "class names: empty list"),
        (lambda m: host_texts(encode, [""], 4), "class name '': no tokens"),
        (
            lambda m: host_texts(encode, NAMES, 4, "", "behind"),
            "position: 'behind'; expected one of end, middle, front",
        ),
        (lambda m: worded_texts(encode, NAMES, "a photo"), "expected a {}"),
        (
            lambda m: layout_of(host_texts(encode, NAMES, 1), 1, "boost_first"),
            "order: 'boost_first'; expected one of boosting_first, host_first",
        ),
        (
            lambda m: encode_image(m.visual, torch.zeros(1, 3, 16, 16), [stack("v", 4, 2)]),
            "4 vision layers; expected at most 3",
        ),
        (
            lambda m: encode_image(m.visual, torch.zeros(1, 3, 16, 16), [[torch.zeros(2, 32)]]),
            "width 32; expected 64",
        ),
        (
            lambda m: encode_text(m, TextLayout([(SOS, Slot(0, 1), EOT)], ["x"]), [stack("t", 1, 1)]),
            "1 text tokens; expected 2",
        ),
        (
            lambda m: encode_text(m, layout_of(host_texts(encode, NAMES, 2)), [stack("t", 1, 2, 1, len(NAMES))]),
            "tokens for 5 classes; expected tokens shared by all classes",
        ),
        (
            lambda m: encode_text(m, layout_of(host_texts(encode, NAMES, 2), distinct=[0]), [stack("t", 1, 2, 1, 4)]),
            "tokens for 4 classes; expected 5",
        ),
        (
            lambda m: encode_text(m, TextLayout([(SOS, Slot(0, 0), EOT)], ["x"]), [stack("t", 4, 1)]),
            "4 text layers",
        ),
    ],
)
def test_invalid_argument_raises(clip_model, make, message):
    with pytest.raises(ValueError, match=message):
        make(clip_model)


ALIKE = ["golden retriever dog", "golden retriever", "a", "golden cat", "golden retriever dog", "tree", "a a"]


@pytest.fixture(scope="module")
def clip_of_alike():
    return build_clip(clip_state_dict(SMALL, 3, {SOS, EOT} | {token for name in ALIKE for token in encode(f"{name}.")}))


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("own", [False, True])
def test_common_beginnings_share_rows(clip_of_alike, own, chunk, position):
    """Shared rows with one context for all classes, and with one per class, which is never shared."""
    lead = (1, len(ALIKE)) if own else (1, 1)
    host, boost = stack("host", 2, 4, *lead), stack("boost", LAYERS, 3)
    texts = host_texts(encode, ALIKE, 4, "", position)
    layout = layout_of(texts, 3, "host_first", distinct=[0] if own else [])
    contexts = [tokens[0] if own else tokens[0, 0] for tokens in host]
    plain = text_features(clip_of_alike, sequences(texts, 3, "host_first"), [contexts, boost])
    agree(encode_text(clip_of_alike, layout, [host, boost], chunk)[0], plain, host + boost)
    tokens = sum(len(sequence) - len(layout.prefix) for sequence in sequences(texts, 3, "host_first"))
    names_can_share = not own or position == "front"  # the name follows no class-specific context
    assert (len(layout.rows().words) < tokens) == names_can_share


def test_rows_are_distinct_beginnings():
    """Compare with the set of all beginnings of all suffixes."""
    layout = layout_of(host_texts(encode, ALIKE, 4))
    suffixes = [(*encode(f"{name}."), EOT) for name in ALIKE]
    beginnings = {suffix[:n] for suffix in suffixes for n in range(1, len(suffix) + 1)}
    rows = layout.rows()
    assert len(rows.words) == len(rows.first) == len(beginnings)
    grid = rows.of.view(len(ALIKE), layout.longest)
    for suffix, places, last, eot in zip(suffixes, grid, rows.last, rows.eot, strict=True):
        assert rows.words[places[: len(suffix)]].tolist() == list(suffix)
        assert rows.steps[places[: len(suffix)]].tolist() == list(range(len(suffix)))
        assert suffix[last] == EOT and places[last] == eot
    assert rows.of[rows.first].tolist() == list(range(len(beginnings)))
    assert sorted([*rows.first.tolist(), *rows.again.tolist()]) == [
        number * layout.longest + step for number, suffix in enumerate(suffixes) for step in range(len(suffix))
    ]


def test_rows_cached_in_inference_mode_allow_training(clip_model):
    stacks = [stack("host", 2, 4)]
    layout = layout_of(host_texts(encode, NAMES, 4))
    with torch.inference_mode():
        seen = encode_text(clip_model, layout, stacks)
    agree(encode_text(clip_model, layout, stacks), seen.clone(), [])
    torch.autograd.grad(encode_text(clip_model, layout, stacks).sum(), stacks[0])


def test_spread_and_pick_have_correct_gradients():
    rows = layout_of(host_texts(encode, ALIKE, 4)).rows()
    x = randn(1, "x", (2, len(rows.words), 3)).requires_grad_()
    grid, weights = spread(x, rows), randn(2, "w", (2, len(ALIKE), len(rows.of) // len(ALIKE), 3))
    assert torch.equal(pick(grid, rows), x)
    weights *= (torch.arange(weights.shape[2]) <= rows.last[:, None])[..., None]  # positions after EOT are masked
    (got,) = torch.autograd.grad((grid * weights).sum(), x)
    (want,) = torch.autograd.grad((x[:, rows.of] * weights.flatten(1, 2)).sum(), x)
    torch.testing.assert_close(got, want)
    places = randn(3, "p", grid.shape).requires_grad_()
    weights = randn(4, "w", x.shape)
    (got,) = torch.autograd.grad((pick(places, rows) * weights).sum(), places)
    (want,) = torch.autograd.grad((places.flatten(1, 2)[:, rows.first] * weights).sum(), places)
    assert torch.equal(got, want)
