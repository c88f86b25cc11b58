"""The plain definition of CLIP with prompt groups: full sequences, every token through every block.

It follows the engine's definition word by word, with the stock blocks' own `forward`. It is slow,
and short enough to be believed; the engine is held against it.
"""

import torch


def text_features(model, sequences, stacks):
    """(C, E): `sequences` are lists of symbols (see trainers.engine.layout), `stacks` lists of (n, d) or (C, n, d)."""
    length = model.context_length
    x = model.token_embedding.weight.new_zeros(len(sequences), length, model.ln_final.weight.shape[0])
    words = torch.zeros(len(sequences), length, dtype=torch.long)
    for c, sequence in enumerate(sequences):
        for place, symbol in enumerate(sequence):
            if not isinstance(symbol, tuple):
                words[c, place] = symbol
    x = _replaced(model.token_embedding(words), sequences, stacks, 0) + model.positional_embedding
    for i, block in enumerate(model.transformer.resblocks):
        if i > 0:
            x = _replaced(x, sequences, stacks, i)
        x = block(x.permute(1, 0, 2)).permute(1, 0, 2)
    x = model.ln_final(x)
    eot = [len(sequence) - 1 for sequence in sequences]
    return x[torch.arange(len(sequences)), eot] @ model.text_projection


def _replaced(x, sequences, stacks, layer):
    rows = []
    for c, sequence in enumerate(sequences):
        tokens = list(x[c])
        for place, symbol in enumerate(sequence):
            if isinstance(symbol, tuple) and layer < len(stacks[symbol[0]]):
                stack = stacks[symbol[0]][layer]
                tokens[place] = (stack[c] if stack.dim() == 3 else stack)[symbol[1]]
        rows.append(torch.stack(tokens))
    return torch.stack(rows)


def image_features(model, images, stacks):
    """(B, E): every group's tokens behind the patches, `stacks` lists of (n, d)."""
    visual = model.visual
    stacks = [stack for stack in stacks if len(stack)]
    x = visual.conv1(images).flatten(2).transpose(1, 2)
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
