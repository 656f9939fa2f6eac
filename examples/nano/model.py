"""nano in PyTorch, for training: the mathematics of gpt-oss, with shared prefixes and experts rounded to MXFP4.

Sources: openai/gpt-oss `gpt_oss/torch/model.py` (attention, sinks, experts), the YaRN paper (frequencies).
Knows nothing of data, optimisers or files.

Activations are flat: one row for each of the N tokens of all sequences, without padding between sequences. Only
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
    """The dimensions of nano.

    Attributes:
        rows: Number of tokens that have their own row in the embedding. One more row is shared by all other ids.
        active: Experts that work on each token.
        window: Tokens that sliding-window layers (0, 2, ...) attend to.
        vocab: Number of ids of the tokenizer.
    """

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
ROUND = 128  # Sizes are rounded up to multiples of this, because oneDNN compiles a kernel for every new shape.
THETA, FACTOR, ORIGINAL_CONTEXT, BETA_FAST, BETA_SLOW = 150_000.0, 32.0, 4096, 32.0, 1.0


def yarn_frequencies(head_dim: int) -> tuple[Tensor, float]:
    """Inverse frequencies (D/2), and the factor on cos and sin. The bounds of the correction range are not rounded."""
    half = head_dim // 2
    frequencies = THETA ** -(torch.arange(half, dtype=torch.float32) / half)
    low, high = (
        half * math.log(ORIGINAL_CONTEXT / (beta * 2 * math.pi)) / math.log(THETA) for beta in (BETA_FAST, BETA_SLOW)
    )
    ramp = ((torch.arange(half) - low) / (high - low)).clamp(0, 1)
    return frequencies / FACTOR * ramp + frequencies * (1 - ramp), 0.1 * math.log(FACTOR) + 1


@torch.no_grad()
def mxfp4(weight: Tensor) -> Tensor:
    """Rounds to the nearest MXFP4 values: e2m1, blocks of 32 on the last axis, scale 2^(floor(log2 amax) - 2)."""
    blocks = weight.reshape(*weight.shape[:-1], -1, 32)
    scale = torch.exp2(torch.floor(torch.log2(blocks.abs().amax(-1, keepdim=True).clamp_min(1e-30))) - 2)
    size = (blocks / scale).abs().clamp_max(6)
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    return (torch.round(size / step) * step * scale * blocks.sign()).reshape(weight.shape)


@dataclass
class Batch:
    """G groups of S sequences that share a prefix: G prefixes of up to P tokens, G S continuations of up to L tokens.

    The padded arrays have G P slots for the prefixes, followed by G S L slots for the continuations. Masks are added to
    the scores (0 or -inf); there is one for full layers and one for sliding layers. The last key is the sink.

    Attributes:
        tokens: Row of each token in the embedding (N).
        positions: Position of each token in its sequence (N).
        slots: Index of each token in the padded arrays (N).
        padded: G, S, P, L.
        prefix_masks: Which keys the prefix tokens attend to, (G, 1, P, P + 1).
        masks: Which keys the continuations attend to, (G S, 1, L, P + L + 1).
        learn: Indices of the tokens whose next token is learned (M).
        targets: Rows of these next tokens, or -100 for padding (M).
    """

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    padded: tuple[int, int, int, int]
    prefix_masks: tuple[Tensor, Tensor]
    masks: tuple[Tensor, Tensor]
    learn: Tensor
    targets: Tensor


class RMSNorm(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.scale.shape, self.scale, EPS)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer that computes in bfloat16."""
    return functional.linear(x.bfloat16(), weight.bfloat16(), bias.bfloat16())


class Attention(nn.Module):
    """Attention of one layer with learned sinks. Even layers use a sliding window. x (N, C) -> (N, C)."""

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
        # split, not slices: its gradient is cheaper.
        to_rotate, values = qkv.split([heads + kv_heads, kv_heads], 1)
        flat = torch.cat([rotate(to_rotate, cos, sin), values], 1).flatten(1)
        padded = flat.new_zeros(n_groups * n_prefix + n_groups * n_each * n_rest, flat.shape[1]).index_copy(
            0, batch.slots, flat
        )
        prefix, rest = padded.split([n_groups * n_prefix, n_groups * n_each * n_rest])
        parts = [heads, 2 * kv_heads]
        prefix_queries, prefix_kv = prefix.view(n_groups, n_prefix, -1, size).transpose(1, 2).split(parts, 1)
        queries, own_kv = rest.view(n_groups * n_each, n_rest, -1, size).transpose(1, 2).split(parts, 1)
        shared_kv = prefix_kv.unsqueeze(1).expand(-1, n_each, -1, -1, -1).reshape(n_groups * n_each, -1, n_prefix, size)
        mask = int(self.sliding)
        out_prefix = self._attend(prefix_queries, prefix_kv, batch.prefix_masks[mask])
        out_rest = self._attend(queries, torch.cat([shared_kv, own_kv], 2), batch.masks[mask])
        out = torch.cat(
            [out_prefix.transpose(1, 2).reshape(-1, heads * size), out_rest.transpose(1, 2).reshape(-1, heads * size)]
        )
        return linear(out[batch.slots], self.out.weight, self.out.bias)

    def _attend(self, queries: Tensor, keys_values: Tensor, mask: Tensor) -> Tensor:
        """Attention with the sink as one more key, whose value is 0.

        Queries and keys get 8 more entries. In a query, the entry of its head is 1; in the sink key, this entry is the
        learned sink logit of the head. So their product is the sink logit. All other keys have 0 there.

        Args:
            queries: (B, H, L, D).
            keys_values: (B, 2 K, T, D), keys first.
            mask: (B, 1, L, T + 1), added to the scores.
        """
        heads, kv_heads, size = (self.shape.heads, self.shape.kv_heads, self.shape.head_dim)
        per_kv_head = heads // kv_heads
        n_all, _, n_new, _ = queries.shape
        keys, values = keys_values.split(kv_heads, 1)
        marks = functional.one_hot(torch.arange(per_kv_head), 8).to(queries.dtype).view(1, 1, per_kv_head, 1, 8)
        marks = marks.expand(n_all, kv_heads, -1, n_new, -1)
        queries = torch.cat(
            [(queries * size**-0.5).view(n_all, kv_heads, per_kv_head, n_new, size), marks], -1
        ).flatten(2, 3)
        sink = functional.pad(
            self.sinks.to(keys.dtype).view(1, kv_heads, 1, per_kv_head), (size, 8 - per_kv_head, keys.shape[2], 0)
        )
        keys, values = (functional.pad(keys, (0, 8, 0, 1)) + sink, functional.pad(values, (0, 0, 0, 1)))
        scores = (queries @ keys.transpose(-1, -2)).view(n_all, kv_heads, per_kv_head, n_new, -1) + mask[:, None]
        out = scores.softmax(-1).flatten(2, 3) @ values
        return out.view(n_all, heads, n_new, size)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding; pairs entry i with entry i + D/2."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class Experts(nn.Module):
    """The experts and router of one layer. x (N, C) -> (N, C).

    The rows of `up` are all gates, followed by all linear parts. The release interleaves them; `export.py` converts.

    Attributes:
        quantised: If True, the experts compute with weights rounded to MXFP4.
        balance: The load-balancing loss of the last forward pass.
    """

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
        """`up` and `down`; if quantised, rounded to MXFP4 with gradients that pass straight through."""
        if not self.quantised:
            return self.up, self.down
        return self.up + (mxfp4(self.up) - self.up).detach(), self.down + (mxfp4(self.down) - self.down).detach()

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        logits = linear(h, self.router.weight, self.router.bias).float()
        best, chosen = logits.topk(self.shape.active, -1)
        probabilities = best.softmax(-1)
        used = functional.one_hot(chosen, self.shape.experts).sum(1).float().mean(0)
        self.balance = (used * logits.softmax(-1).mean(0)).sum() * self.shape.experts / self.shape.active
        full = torch.zeros_like(logits).scatter(1, chosen, probabilities).bfloat16()
        up, down = (weight.bfloat16() for weight in self.weights())
        n, f = self.shape.experts, self.shape.expert_hidden
        halves = [part.reshape(n * f, -1) for part in up.chunk(2, 1)]
        biases = [part.reshape(n * f) for part in self.up_bias.bfloat16().chunk(2, 1)]
        h = h.bfloat16()
        gate, linear_part = (functional.linear(h, half, bias) for half, bias in zip(halves, biases, strict=True))
        gate = functional.hardtanh(gate, -1e9, SWIGLU_LIMIT)
        linear_part = functional.hardtanh(linear_part, -SWIGLU_LIMIT, SWIGLU_LIMIT)
        y = (gate * torch.sigmoid(SWIGLU_ALPHA * gate) * (linear_part + 1)).view(-1, n, f) * full[:, :, None]
        return (
            functional.linear(y.flatten(1), down.transpose(0, 1).reshape(-1, n * f)) + full @ self.down_bias.bfloat16()
        )


class Nano(nn.Module):
    """The whole network. Its parameter names are those of checkpoints; `export.released` maps them to the release."""

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
        """Switches rounding of the experts to MXFP4 on or off."""
        for experts in self.experts:
            experts.quantised = on

    def forward(self, batch: Batch) -> Tensor:
        """Logits (M, rows + 1) at the learned positions.

        The last logit stands for all ids that have no row: the log of their number is added to it.
        """
        angles = batch.positions[:, None] * self.frequencies
        cos, sin = ((function(angles) * self.concentration).bfloat16()[:, None] for function in (torch.cos, torch.sin))
        x = self.embedding[batch.tokens]
        for attention, experts in zip(self.attention, self.experts, strict=True):
            x = x + attention(x, batch, cos, sin)
            x = x + experts(x)
        logits = functional.linear(self.norm(x[batch.learn]).bfloat16(), self.unembedding.bfloat16()).float()
        log_counts = logits.new_zeros(self.shape.rows + 1)
        log_counts[-1] = math.log(self.shape.vocab - self.shape.rows)
        return logits + log_counts
