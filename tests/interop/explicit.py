"""Reference: boosting tokens that are really in the sequence, where a host's attention gets it.

Slow and plain, and independent of `trainers.plugin`: each attention is called with the whole sequence in its true order,
SOS, boosting tokens, the rest, and with the masks of that sequence. A token's way through the rest of a block is that
block's own code where it treats all tokens alike (`Explicit.rerun`), else the stock block's.
"""

import torch
from torch import nn

HIDDEN = float("-inf")


class Explicit:
    """Replaces the forward passes of one tower's blocks.

    Args:
        door: a module; tokens enter in its forward pass only.
        blocks: the tower's blocks.
        tokens: (depth, n, d).
        position: text: function that returns the table of positions (77, d). None for a vision tower.
        entry: vision: the norm before the first block.
        eot: text: function that returns the row of each text's EOT, for hosts with learned tokens after it that have no
            positions. None: all tokens have one.
        rerun: whether tokens run through the block's own forward pass.
    """

    def __init__(self, door, blocks, tokens, position=None, entry=None, eot=None, rerun=False):
        self.blocks, self.tokens, self.position, self.entry, self.eot = list(blocks), tokens, position, entry, eot
        self.rerun, self.open, self.now = rerun, 0, None
        forward = door.forward

        def opened(*args, **kwargs):
            self.open += 1
            try:
                return forward(*args, **kwargs)
            finally:
                self.open -= 1

        door.forward = opened
        for i, block in enumerate(self.blocks):
            self.replace(i, block)

    def replace(self, i, block):
        """Let block i see the tokens."""
        forward = block.forward

        def prompted(x, *rest):
            if not self.open:
                return forward(x, *rest)
            listed = isinstance(x, list)
            sequence = x[0] if listed else x
            if i == 0:
                sequence = self.enter(sequence)
            elif i < len(self.tokens):
                self.now = self.tokens[i][:, None].expand(-1, sequence.shape[1], -1)
            tokens = self.now
            attended = []
            stock = block.attn.forward

            def joint(q, k, v, *args, **kwargs):
                output, weights = self.attend(stock, q, block.ln_1(tokens), args, kwargs)
                n = tokens.shape[0]
                attended.append(output[1 : 1 + n])
                if weights is not None:
                    host = [0, *range(1 + n, weights.shape[-1])]
                    weights = weights[:, host][:, :, host]
                return torch.cat([output[:1], output[1 + n :]]), weights

            block.attn.forward = joint
            try:
                output = forward([sequence, *x[1:]] if listed else sequence, *rest)
            finally:
                block.attn.forward = stock
            if self.rerun:
                block.attn.forward = lambda *args, **kwargs: (attended[0], None)
                try:
                    after = forward([tokens, *x[1:]] if listed else tokens, *rest)
                finally:
                    block.attn.forward = stock
                self.now = after[0] if isinstance(after, list | tuple) else after
            else:
                middle = tokens + attended[0]
                self.now = middle + block.mlp(block.ln_2(middle))
            return output

        block.forward = prompted

    def enter(self, x):
        """The first block's input, with the tokens of layer 0."""
        n = self.tokens.shape[1]
        if self.position is None:
            self.now = self.entry(self.tokens[0])[:, None].expand(-1, x.shape[1], -1)
            return x
        table = self.position()
        self.now = (self.tokens[0] + table[1 : 1 + n])[:, None].expand(-1, x.shape[1], -1)
        rows = []
        for place in range(len(x)):
            if place == 0 or place + n >= len(table):
                rows.append(x[place])
                continue
            change = (table[place + n] - table[place]).expand_as(x[place])
            if self.eot is not None:
                change = change * (place <= self.eot())[:, None]
            rows.append(x[place] + change)
        return torch.stack(rows)

    def attend(self, stock, normed, tokens, args, kwargs):
        """Call the host's attention with the sequence in its true order."""
        n, length = len(tokens), len(normed)
        whole = torch.cat([normed[:1], tokens, normed[1:]])
        host = torch.tensor([0, *range(1 + n, length + n)])

        def spread(value):
            wide = value.new_zeros(*value.shape[:-2], length + n, length + n)
            wide[..., host[:, None], host] = value
            return wide

        def mask_of(value):
            mask = spread(value)
            if self.position is None:
                mask[..., 1 : 1 + n, :] = mask[..., :1, :].clone()
                mask[..., 1 : 1 + n] = 0
            else:
                for token in range(1, 1 + n):
                    mask[..., token, : token + 1] = 0
                    mask[..., token, token + 1 :] = HIDDEN
                    mask[..., token + 1 :, token] = 0
                    mask[..., 0, token] = HIDDEN
            return mask

        args = [spread(a) if isinstance(a, torch.Tensor) and a.dim() > 1 else a for a in args]
        mask = kwargs.get("attn_mask")
        return stock(whole, whole, whole, *args, **kwargs | {"attn_mask": None if mask is None else mask_of(mask)})


def install(model, doors, group, rerun=()):
    """Put explicit tokens into a model.

    Args:
        model: the host's model, or a loaded CLIP.
        doors: kind -> (path of the door, path of the transformer, path of `ln_pre` or the table of positions).
        group: the boosting prompt.
        rerun: kinds of towers whose blocks treat all tokens alike, adapters included.
    """
    for kind, (door, transformer, more) in doors.items():
        tokens = getattr(group, kind).detach()
        if not tokens.numel():
            continue
        blocks = find(model, transformer)
        options = {"rerun": kind in rerun}
        if kind == "vision":
            options["entry"] = find(model, more)
        else:
            options["position"] = lambda more=more: find(model, more)
            if hasattr(model, "text_tokenized"):
                options["eot"] = lambda: model.text_tokenized.argmax(dim=-1)
        Explicit(find(model, door), getattr(blocks, "resblocks", blocks), tokens, **options)


def find(owner, path):
    """The attribute at a dotted path, through nn.DataParallel."""
    for name in filter(None, path.split(".")):
        owner = getattr(owner.module if isinstance(owner, nn.DataParallel) else owner, name)
    return owner.module if isinstance(owner, nn.DataParallel) else owner
