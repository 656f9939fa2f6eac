"""nano in PyTorch for training: gpt-oss's mathematics, sequences that share a prefix, experts as MXFP4 will hold them.

Sources: openai/gpt-oss `gpt_oss/torch/model.py` (attention, sinks, experts), the YaRN paper (frequencies).
Knows nothing of data, optimisers or files. Rows of tokens are flat (N tokens of all sequences, no padding); only
attention pads. N tokens, C hidden, H heads, K key-value heads, D head size, E experts, F expert hidden.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """The dimensions of nano; `rows` are the tokens with a row of their own, one more row stands for all others."""

    rows: int
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    experts: int = 8
    active: int = 4
    expert_hidden: int = 128
    window: int = 128
    vocab: int = 201_088


SWIGLU_LIMIT, SWIGLU_ALPHA, EPS = 7.0, 1.702, 1e-5
ROUND = 128  # sizes are rounded up to multiples: oneDNN compiles a kernel for every new shape
THETA, FACTOR, ORIGINAL_CONTEXT, BETA_FAST, BETA_SLOW = 150_000.0, 32.0, 4096, 32.0, 1.0


def yarn_frequencies(head_dim: int) -> tuple[Tensor, float]:
    """Inverse frequencies (D/2) and the factor on cos and sin; the correction range is not rounded."""
    half = head_dim // 2
    frequencies = THETA ** -(torch.arange(half, dtype=torch.float32) / half)
    low, high = (
        half * math.log(ORIGINAL_CONTEXT / (beta * 2 * math.pi)) / math.log(THETA) for beta in (BETA_FAST, BETA_SLOW)
    )
    ramp = ((torch.arange(half) - low) / (high - low)).clamp(0, 1)
    return frequencies / FACTOR * ramp + frequencies * (1 - ramp), 0.1 * math.log(FACTOR) + 1


@torch.no_grad()
def mxfp4(weight: Tensor) -> Tensor:
    """The nearest values MXFP4 can hold: blocks of 32 along the last axis, scale 2^(floor(log2 amax) - 2), e2m1."""
    blocks = weight.reshape(*weight.shape[:-1], -1, 32)
    scale = torch.exp2(torch.floor(torch.log2(blocks.abs().amax(-1, keepdim=True).clamp_min(1e-30))) - 2)
    size = (blocks / scale).abs().clamp_max(6)
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    return (torch.round(size / step) * step * scale * blocks.sign()).reshape(weight.shape)


@dataclass
class Batch:
    """Groups of sequences with a common prefix: G prefixes of up to P tokens, G x S continuations of up to L tokens.

    tokens (N) rows; positions (N); slots (N): where each token sits in the padded arrays, the G x P prefix slots first.
    masks: for full and for sliding layers, what prefix tokens (G, 1, P, P + 1) and continuations
    (G S, 1, L, P + L + 1) may see; the last key is the sink.
    """

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    padded: tuple[int, int, int, int]  # G, S, P, L
    prefix_masks: tuple[Tensor, Tensor]
    masks: tuple[Tensor, Tensor]
    learn: Tensor  # (M) indices of tokens whose successor is learned
    targets: Tensor  # (M) rows, or -100 for padding


class RMSNorm(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.scale.shape, self.scale, EPS)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.linear(x.bfloat16(), weight.bfloat16(), bias.bfloat16())


class Attention(nn.Module):
    def __init__(self, shape: Shape, layer: int):
        super().__init__()
        self.shape, self.sliding = shape, layer % 2 == 0
        width = shape.head_dim * (shape.heads + 2 * shape.kv_heads)
        self.norm = RMSNorm(shape.hidden)
        self.qkv, self.out = (nn.Linear(shape.hidden, width), nn.Linear(shape.head_dim * shape.heads, shape.hidden))
        self.sinks = nn.Parameter(torch.zeros(shape.heads))

    def forward(self, x: Tensor, batch: Batch, cos: Tensor, sin: Tensor) -> Tensor:
        heads, kv_heads, size = (self.shape.heads, self.shape.kv_heads, self.shape.head_dim)
        n_groups, n_each, n_prefix, n_rest = batch.padded
        qkv = linear(self.norm(x), self.qkv.weight, self.qkv.bias).view(-1, heads + 2 * kv_heads, size)
        to_turn, values = qkv.split(
            [heads + kv_heads, kv_heads], 1
        )  # the gradient of a split is cheaper than a slice's
        flat = torch.cat([rotate(to_turn, cos, sin), values], 1).flatten(1)
        full = flat.new_zeros(n_groups * n_prefix + n_groups * n_each * n_rest, flat.shape[1]).index_copy(
            0, batch.slots, flat
        )
        front, rest = full.split([n_groups * n_prefix, n_groups * n_each * n_rest])
        kinds = [heads, 2 * kv_heads]
        asked, before = front.view(n_groups, n_prefix, -1, size).transpose(1, 2).split(kinds, 1)
        queries, own = rest.view(n_groups * n_each, n_rest, -1, size).transpose(1, 2).split(kinds, 1)
        keys = before.unsqueeze(1).expand(-1, n_each, -1, -1, -1).reshape(n_groups * n_each, -1, n_prefix, size)
        which = int(self.sliding)
        out_front = self._attend(asked, before, batch.prefix_masks[which])
        out_rest = self._attend(queries, torch.cat([keys, own], 2), batch.masks[which])
        out = torch.cat(
            [out_front.transpose(1, 2).reshape(-1, heads * size), out_rest.transpose(1, 2).reshape(-1, heads * size)]
        )
        return linear(out[batch.slots], self.out.weight, self.out.bias)

    def _attend(self, queries: Tensor, keys_values: Tensor, mask: Tensor) -> Tensor:
        """The sink is one more key: a query entry of 1 meets the learned logit of its head there; its value is 0."""
        heads, kv_heads, size = (self.shape.heads, self.shape.kv_heads, self.shape.head_dim)
        each = heads // kv_heads
        n_all, _, n_new, _ = queries.shape
        keys, values = keys_values.split(kv_heads, 1)
        marks = functional.one_hot(torch.arange(each), 8).to(queries.dtype).view(1, 1, each, 1, 8)
        marks = marks.expand(n_all, kv_heads, -1, n_new, -1)
        queries = torch.cat([(queries * size**-0.5).view(n_all, kv_heads, each, n_new, size), marks], -1).flatten(2, 3)
        sink = functional.pad(self.sinks.to(keys.dtype).view(1, kv_heads, 1, each), (size, 8 - each, keys.shape[2], 0))
        keys, values = (functional.pad(keys, (0, 8, 0, 1)) + sink, functional.pad(values, (0, 0, 0, 1)))
        scores = (queries @ keys.transpose(-1, -2)).view(n_all, kv_heads, each, n_new, -1) + mask[:, None]
        out = scores.softmax(-1).flatten(2, 3) @ values
        return out.view(n_all, heads, n_new, size)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class Experts(nn.Module):
    """Rows of `up` are the gates, then the linear parts (the release interleaves them; `export.py` does that)."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape, self.quantised = shape, False
        n, c, f = shape.experts, shape.hidden, shape.expert_hidden
        self.norm, self.router = RMSNorm(c), nn.Linear(c, n)
        self.up, self.up_bias = (
            nn.Parameter(torch.randn(n, 2 * f, c) / math.sqrt(c)),
            nn.Parameter(torch.zeros(n, 2 * f)),
        )
        self.down, self.down_bias = (
            nn.Parameter(torch.randn(n, c, f) / math.sqrt(f) / 3),
            nn.Parameter(torch.zeros(n, c)),
        )
        self.balance = torch.zeros(())

    def weights(self) -> tuple[Tensor, Tensor]:
        if not self.quantised:
            return self.up, self.down
        return self.up + (mxfp4(self.up) - self.up).detach(), self.down + (mxfp4(self.down) - self.down).detach()

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        logits = linear(h, self.router.weight, self.router.bias).float()
        best, chosen = logits.topk(self.shape.active, -1)
        share = best.softmax(-1)
        used = functional.one_hot(chosen, self.shape.experts).sum(1).float().mean(0)
        self.balance = (used * logits.softmax(-1).mean(0)).sum() * self.shape.experts / self.shape.active
        full = torch.zeros_like(logits).scatter(1, chosen, share).bfloat16()
        up, down = (weight.bfloat16() for weight in self.weights())
        n, f = self.shape.experts, self.shape.expert_hidden
        halves = [part.reshape(n * f, -1) for part in up.chunk(2, 1)]
        biases = [part.reshape(n * f) for part in self.up_bias.bfloat16().chunk(2, 1)]
        h = h.bfloat16()
        gate, line = (functional.linear(h, half, bias) for half, bias in zip(halves, biases, strict=True))
        gate = functional.hardtanh(gate, -1e9, SWIGLU_LIMIT)
        line = functional.hardtanh(line, -SWIGLU_LIMIT, SWIGLU_LIMIT)
        y = (gate * torch.sigmoid(SWIGLU_ALPHA * gate) * (line + 1)).view(-1, n, f) * full[:, :, None]
        return (
            functional.linear(y.flatten(1), down.transpose(0, 1).reshape(-1, n * f)) + full @ self.down_bias.bfloat16()
        )


class Nano(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.randn(shape.rows + 1, shape.hidden))
        self.attention = nn.ModuleList(Attention(shape, layer) for layer in range(shape.layers))
        self.experts = nn.ModuleList(Experts(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.hidden)
        self.unembedding = nn.Parameter(self.embedding.detach().clone() / math.sqrt(shape.hidden))
        self.frequencies, self.concentration = yarn_frequencies(shape.head_dim)

    def quantise(self, on: bool) -> None:
        for experts in self.experts:
            experts.quantised = on

    def forward(self, batch: Batch) -> Tensor:
        """Logits (M, rows + 1) at the learned positions; the last one counts for every unused id."""
        angles = batch.positions[:, None] * self.frequencies
        cos, sin = ((function(angles) * self.concentration).bfloat16()[:, None] for function in (torch.cos, torch.sin))
        x = self.embedding[batch.tokens]
        for attention, experts in zip(self.attention, self.experts, strict=True):
            x = x + attention(x, batch, cos, sin)
            x = x + experts(x)
        logits = functional.linear(self.norm(x[batch.learn]).bfloat16(), self.unembedding.bfloat16()).float()
        count = logits.new_zeros(self.shape.rows + 1)
        count[-1] = math.log(self.shape.vocab - self.shape.rows)
        return logits + count
