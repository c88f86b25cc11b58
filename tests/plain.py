"""Reference implementation of CLIP with prompt groups: full sequences, every token through every block.

It calls the stock blocks' `forward`. It is slow but short enough to verify by reading; the engine is compared with it.
"""

import torch


def text_features(model, sequences, stacks):
    """Encode texts; returns (C, E).

    Args:
        model: `clip.model.CLIP`.
        sequences: the symbols of each class (see `trainers.engine.symbols`).
        stacks: the layers of each group, (n, d) or (C, n, d) each.
    """
    length, device = model.context_length, model.positional_embedding.device
    words = [[0 if isinstance(symbol, tuple) else symbol for symbol in sequence] for sequence in sequences]
    words = torch.tensor([row + [0] * (length - len(row)) for row in words], device=device)
    places = [_places(sequences, group, length).to(device) for group in range(len(stacks))]
    dtype = model.text_projection.dtype
    x = _replaced(model.token_embedding(words).to(dtype), places, stacks, 0) + model.positional_embedding.to(dtype)
    for i, block in enumerate(model.transformer.resblocks):
        if i > 0:
            x = _replaced(x, places, stacks, i)
        x = block(x.permute(1, 0, 2)).permute(1, 0, 2)
    eot = [len(sequence) - 1 for sequence in sequences]
    return model.ln_final(x)[torch.arange(len(sequences)), eot] @ model.text_projection


def _places(sequences, group, length):
    """Return the group's token index at each position, -1 at other symbols; (C, L)."""
    rows = [[s[1] if isinstance(s, tuple) and s[0] == group else -1 for s in sequence] for sequence in sequences]
    return torch.tensor([row + [-1] * (length - len(row)) for row in rows])


def _replaced(x, places, stacks, layer):
    for place, stack in zip(places, stacks, strict=True):
        if layer < len(stack) and stack[layer] is not None:
            tokens, index = stack[layer].to(x.dtype), place.clamp(min=0)
            if tokens.dim() == 2:
                tokens = tokens[index]
            else:
                tokens = tokens.take_along_dim(index[..., None], dim=1)
            x = torch.where((place >= 0)[..., None], tokens, x)
    return x


def image_features(model, images, stacks):
    """Encode images (B, 3, R, R) with the groups' tokens after the patches; returns (B, E).

    Args:
        model: `clip.model.CLIP`.
        images: (B, 3, R, R).
        stacks: the layers of each group, (n, d) each.
    """
    visual = model.visual
    stacks = [stack for stack in stacks if len(stack)]
    x = visual.conv1(images.to(visual.conv1.weight.dtype)).flatten(2).transpose(1, 2)
    stacks = [[tokens.to(x.dtype) for tokens in stack] for stack in stacks]
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1) + visual.positional_embedding
    x = visual.ln_pre(torch.cat([x, *(stack[0].expand(len(x), -1, -1) for stack in stacks)], dim=1))
    for i, block in enumerate(visual.transformer.resblocks):
        place = x.shape[1] - sum(stack[0].shape[0] for stack in stacks)
        parts = [x[:, :place]]
        for stack in stacks:
            n = stack[0].shape[0]
            replace = 0 < i < len(stack)
            parts.append(stack[i].expand(len(x), -1, -1) if replace else x[:, place : place + n])
            place += n
        x = block(torch.cat(parts, dim=1).permute(1, 0, 2)).permute(1, 0, 2)
    return visual.ln_post(x[:, 0]) @ visual.proj
