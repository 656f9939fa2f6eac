"""The gpt-oss transformer on MLX.

The reference is `gpt_oss/torch/model.py` in openai/gpt-oss. `load` joins the matrices of q, k and v into one, and those
of gate and up into one. Knows nothing of files, text or sampling: token ids in, logits out.

Dimensions in the shapes of this package:

    B  batch                H  query heads          F  hidden size of an expert
    L  new tokens           K  kv heads             E  experts
    S  cached + new tokens  D  head size            T  experts per token
    V  vocabulary           C  hidden size          N  (token, expert) pairs
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import mlx.core as mx
import mlx.nn as nn

from mlx_oss.backend.expert_rows import sorted_rows
from mlx_oss.config import MXFP4, ModelConfig, QuantizationSpec
from mlx_oss.model.attention import Seen, attention
from mlx_oss.model.kv_cache import Cache, KVCache, RotatingKVCache
from mlx_oss.model.linear import ExpertLinear, linear, rows_of
from mlx_oss.model.rope import inverse_frequencies
from mlx_oss.model.sharding import WHOLE, Shard
from mlx_oss.model.swiglu import swiglu

Specs = Mapping[str, QuantizationSpec | None]

PREFILL_CHUNK = 512  # tokens; limits the memory of a prefill, and changes its result only by rounding


class Attention(nn.Module):
    """Grouped-query attention with biases, rotary positions and one learned sink logit for each head."""

    def __init__(self, config: ModelConfig, freqs: mx.array, specs: Specs, path: str, shard: Shard) -> None:
        super().__init__()
        c = config
        self.H, self.K, self.D = shard.part(c.num_attention_heads), shard.part(c.num_key_value_heads), c.head_dim
        self.qkv_proj = linear(c.hidden_size, (self.H + 2 * self.K) * self.D, True, specs.get(f"{path}.qkv_proj"))
        inputs, outputs = c.num_attention_heads * self.D, shard.part(c.hidden_size)
        self.o_proj = linear(inputs, outputs, True, specs.get(f"{path}.o_proj"))
        self._shard = shard
        self.sinks = mx.zeros((self.H,))
        # YaRN multiplies cos and sin by the concentration, and so both q and k. The scores get its square.
        concentration = c.rope_scaling.concentration if c.rope_scaling else 1.0
        self.scale = concentration**2 / math.sqrt(c.head_dim)
        self._freqs = freqs

    def __call__(self, x: mx.array, seen: Seen, cache: KVCache | RotatingKVCache) -> mx.array:
        """x (B, L, C) -> (B, L, C)."""
        B, L, _ = x.shape
        q, k, v = self._rotated(x, cache.offset)
        k, v = cache.update(k, v)
        out = attention(q, k, v, scale=self.scale, seen=seen, sinks=self.sinks)
        return self._output(out.reshape(B, L, self.H * self.D))

    def of_each(self, x: mx.array, positions: mx.array, caches: Sequence[KVCache | RotatingKVCache]) -> mx.array:
        """Like a call, for tokens of different sequences: x (n, 1, C), positions (n,) -> (n, 1, C).

        Each token is appended to its own cache. Tokens of one sequence stand in their order, with the same cache.
        """
        q, k, v = self._rotated(x, positions)
        outs = []
        for n, cache in enumerate(caches):
            keys, values = cache.update(k[n : n + 1], v[n : n + 1])
            outs.append(attention(q[n : n + 1], keys, values, scale=self.scale, seen=Seen(), sinks=self.sinks))
        return self._output(mx.concatenate(outs).reshape(len(outs), 1, self.H * self.D))

    def _output(self, out: mx.array) -> mx.array:
        """The heads' values (B, L, H * D) -> (B, L, C)."""
        return self._shard.joined(self.o_proj(self._shard.joined(out)))

    def _rotated(self, x: mx.array, offset: int | mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """x (B, L, C) -> queries (B, H, L, D), keys and values (B, K, L, D) at the positions from `offset` on."""
        B, L, _ = x.shape
        H, K, D = self.H, self.K, self.D
        qkv = self.qkv_proj(x).reshape(B, L, H + 2 * K, D).swapaxes(1, 2)
        qk = mx.fast.rope(qkv[:, : H + K], D, traditional=False, base=None, scale=1.0, offset=offset, freqs=self._freqs)
        return qk[:, :H], qk[:, H:], qkv[:, H + K :]


class Experts(nn.Module):
    """The SwiGLU experts: computes the T experts of each token, and adds up their weighted outputs.

    With `rows_alternate`, the even rows of `gate_up_proj` are gate and the odd ones are up, as the releases store them.
    Otherwise all rows of gate come first. Where gate and up are quantised differently, they are two modules.

    Attributes:
        gate_up: Names of the modules that compute gate and up: one for both, or one for each.
    """

    def __init__(
        self, config: ModelConfig, specs: Specs, path: str, rows_alternate: bool = False, shard: Shard = WHOLE
    ) -> None:
        super().__init__()
        c = config
        self._shard = shard
        is_split = f"{path}.gate_proj" in specs
        self.gate_up = ("gate_proj", "up_proj") if is_split else ("gate_up_proj",)
        for name in self.gate_up:
            rows, spec = shard.part(c.intermediate_size * 2) // len(self.gate_up), specs.get(f"{path}.{name}", MXFP4)
            self[name] = ExpertLinear(c.num_local_experts, c.hidden_size, rows, spec)
        down = specs.get(f"{path}.down_proj", MXFP4)
        outputs = shard.part(c.hidden_size)
        self.down_proj = ExpertLinear(c.num_local_experts, c.intermediate_size, outputs, down)
        self.alpha, self.limit = c.swiglu_alpha, c.swiglu_limit
        self.rows_alternate = rows_alternate

    def __call__(self, x: mx.array, experts: mx.array, weights: mx.array, residual: mx.array) -> mx.array:
        """x and residual (B, L, C), experts and weights (B, L, T) -> residual + weighted outputs (B, L, C)."""
        B, L, T = experts.shape
        y = self._shard.joined(self.outputs(x.reshape(B * L, 1, -1), experts.flatten()))
        # The weighted sum is a product (1, T) @ (T, C) for each token. mx.addmm adds the residual in the same kernel; a
        # separate addition would launch one more kernel in each layer of each step.
        out = mx.addmm(residual.reshape(B * L, 1, -1), weights.reshape(B * L, 1, T), y.reshape(B * L, T, -1))
        return out.reshape(B, L, -1)

    def outputs(self, x: mx.array, experts: mx.array) -> mx.array:
        """x (n, 1, C), experts (N,) -> (N, 1, C): the output of each expert for its row of x, as far as it is ours.

        Each row is the input of N / n consecutive experts. On a GPU many pairs are sorted, so that all rows of an
        expert are computed together.
        """
        N = experts.size
        rows = sorted_rows(N, self.down_proj.weight.shape[0])
        if not rows:
            return self._forward(x, experts, sorted_indices=False)
        order = mx.argsort(experts)
        back = mx.argsort(order)
        if rows > N:  # computes the last pair several times
            order = mx.concatenate([order, mx.repeat(order[-1:], rows - N)])
        return self._forward(x[order // (N // x.shape[0])], experts[order], sorted_indices=True)[back]

    def edges_of(self, expert: int, name: str, suffix: str) -> mx.array:
        """The first and the last row of an expert in a parameter, as it is held. `fingerprint` has them.

        Both are the same for either order of the rows of gate and up: gate's first row, and up's last.
        """
        array: mx.array = self[name][suffix]
        first, rows = expert * array.shape[1], array.reshape(-1, *array.shape[2:])
        own = rows[mx.array([first, first + array.shape[1] - 1])]
        return self._shard.from_owners(own, mx.array([0, self._shard.rank.size - 1]))

    def _forward(self, x: mx.array, experts: mx.array, sorted_indices: bool) -> mx.array:
        """x (n, 1, C), experts (N,) -> (N, 1, C); `sorted_indices` states that `experts` is sorted."""
        layers = [self[name] for name in self.gate_up]
        if len(layers) == 1:
            h = layers[0].activated(x, experts, sorted_indices, self.alpha, self.limit, self.rows_alternate)
        else:
            h = mx.concatenate([layer(x, experts, sorted_indices) for layer in layers], axis=-1)
            bias = mx.concatenate([layer.bias[experts][:, None] for layer in layers], axis=-1)
            h = swiglu(h, bias, self.alpha, self.limit, self.rows_alternate)
        return self.down_proj.with_bias(self._shard.joined(h), experts, sorted_indices)


class MoE(nn.Module):
    """Mixture of experts: a linear router picks T experts for each token; the softmax of their logits weights them."""

    def __init__(self, config: ModelConfig, specs: Specs, path: str, rows_alternate: bool, shard: Shard) -> None:
        super().__init__()
        self.T = config.num_experts_per_tok
        self.router = linear(config.hidden_size, config.num_local_experts, True, specs.get(f"{path}.router"))
        self.experts = Experts(config, specs, f"{path}.experts", rows_alternate, shard)

    def __call__(self, x: mx.array, residual: mx.array) -> mx.array:
        """x and residual (B, L, C) -> residual + weighted outputs of the experts for x (B, L, C)."""
        logits = self.router(x)
        experts = mx.argpartition(logits, kth=-self.T, axis=-1)[..., -self.T :]
        weights = mx.softmax(mx.take_along_axis(logits, experts, axis=-1), axis=-1, precise=True)
        return self.experts(x, experts, weights, residual)


class Block(nn.Module):
    """Attention, then the mixture of experts: each normalises its input and adds its output to the residual stream."""

    def __init__(
        self, config: ModelConfig, freqs: mx.array, specs: Specs, path: str, rows_alternate: bool, shard: Shard
    ) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, freqs, specs, f"{path}.self_attn", shard)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MoE(config, specs, f"{path}.mlp", rows_alternate, shard)

    def __call__(self, x: mx.array, seen: Seen, cache: KVCache | RotatingKVCache) -> mx.array:
        """x (B, L, C) -> (B, L, C); `seen` as in `attention`; `cache` is the layer's own and is extended by L."""
        x = x + self.self_attn(self.input_layernorm(x), seen, cache)
        return self.mlp(self.post_attention_layernorm(x), x)

    def of_each(self, x: mx.array, positions: mx.array, caches: Sequence[KVCache | RotatingKVCache]) -> mx.array:
        """x (n, 1, C) -> (n, 1, C), as `Attention.of_each`."""
        x = x + self.self_attn.of_each(self.input_layernorm(x), positions, caches)
        return self.mlp(self.post_attention_layernorm(x), x)


class Transformer(nn.Module):
    """The whole gpt-oss model: token ids (B, L) in, logits (B, L, V) out.

    A new instance has random weights, which are computed only if it is used. `load` returns an engine with one that has
    the weights of a folder.

    Args:
        config: Sizes and settings of the model.
        specs: How modules are quantised, by path ("layers.0.self_attn.qkv_proj"); None means not at all. Modules not
            listed are not quantised, except experts, which are MXFP4 by default.
        rows_alternate: How the experts hold gate and up, as `Experts` describes.
        shard: Which part of it this machine computes. All of them have to make the same calls.

    Attributes:
        config: Sizes and settings of the model.
        shard: As given.
    """

    def __init__(
        self,
        config: ModelConfig,
        specs: Specs | None = None,
        *,
        rows_alternate: bool = False,
        shard: Shard = WHOLE,
    ) -> None:
        super().__init__()
        c, specs = config, specs or {}
        self.config = config
        inverse = inverse_frequencies(c.head_dim, c.rope_theta, c.rope_scaling)
        freqs = mx.array((1 / inverse).astype("float32"))  # mx.fast.rope expects the reciprocal
        self.shard = shard
        self.embed_tokens = nn.Embedding(shard.part(c.vocab_size), c.hidden_size)
        if spec := specs.get("embed_tokens"):
            self.embed_tokens = self.embed_tokens.to_quantized(spec.group_size, spec.bits, mode=spec.mode)
        paths = [f"layers.{n}" for n in range(c.num_hidden_layers)]
        self.layers = [Block(c, freqs, specs, path, rows_alternate, shard) for path in paths]
        self.norm = nn.RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.lm_head = linear(c.hidden_size, shard.part(c.vocab_size), False, specs.get("lm_head"))

    @property
    def dtype(self) -> mx.Dtype:
        """The dtype of the activations."""
        return self.norm.weight.dtype

    def make_cache(self) -> Cache:
        """Returns an empty cache for one sequence, or for a batch of equally long sequences."""
        c = self.config
        return Cache(
            [RotatingKVCache(c.sliding_window) if c.is_sliding(n) else KVCache() for n in range(len(self.layers))]
        )

    def __call__(self, tokens: mx.array, cache: Cache | None = None) -> mx.array:
        """tokens (B, L) int -> logits (B, L, V) of the token that follows each of them.

        Args:
            tokens: Token ids below V.
            cache: The tokens before these; it is extended. None means that there are none. If an error or Ctrl-C
                interrupts the call, the cache is rewound as `hidden` describes.

        Raises:
            CheckpointError: If weights are on disk and cannot be read.
        """
        return self.logits(self.hidden(tokens, cache))

    def hidden(self, tokens: mx.array, cache: Cache | None = None) -> mx.array:
        """tokens (B, L) int -> final hidden states (B, L, C), normalised. `logits` converts any of them to logits.

        If an error or Ctrl-C interrupts the call, the cache is rewound to where it was, or to the nearest earlier
        position that is possible (see `Cache.rewind`).

        Args:
            tokens: Token ids below V.
            cache: The tokens before these; it is extended. None means that there are none.

        Raises:
            CheckpointError: If weights are on disk and cannot be read.
        """
        cache = self.make_cache() if cache is None else cache
        start, full, sliding = cache.offset, Seen(), Seen(self.config.sliding_window)
        try:
            x = self._embedded(tokens)
            for layer, layer_cache in zip(self.layers, cache.layers, strict=True):
                x = layer(x, sliding if isinstance(layer_cache, RotatingKVCache) else full, layer_cache)
        except BaseException:  # unreadable weights on disk, or Ctrl-C: the layers are now at different positions
            cache.rewind(min(start, cache.offset))
            raise
        normed: mx.array = self.norm(x)
        return normed

    def hidden_of_each(self, tokens: mx.array, caches: Sequence[Cache]) -> mx.array:
        """Like `hidden`, for tokens of different sequences: (n,) int -> (n, 1, C).

        Each matrix is read once for all of them, and each sequence keeps its own cache: nothing is padded or copied. On
        the CPU backend with the native library, the bits of a token are those that `hidden` computes for it alone.

        Args:
            tokens: Token ids below V. Those of one sequence stand in their order.
            caches: The cache of each token; it is extended. After an error or Ctrl-C they are at different positions.

        Raises:
            CheckpointError: If weights are on disk and cannot be read.
        """
        if len(caches) == 1:
            return self.hidden(tokens[None], caches[0])
        starts = [cache.offset for cache in caches]
        positions = [start + caches[:n].count(caches[n]) for n, start in enumerate(starts)]
        x, offsets = self._embedded(tokens[:, None]), mx.array(positions)
        for number, layer in enumerate(self.layers):
            x = layer.of_each(x, offsets, [cache.layers[number] for cache in caches])
        normed: mx.array = self.norm(x)
        return normed

    def _embedded(self, tokens: mx.array) -> mx.array:
        """tokens (B, L) int -> (B, L, C)."""
        return self.shard.looked_up(self.embed_tokens, tokens, self.shard.part(self.config.vocab_size)).astype(
            self.dtype
        )

    def logits(self, hidden: mx.array) -> mx.array:
        """Final hidden states (..., C) -> logits (..., V)."""
        return self.shard.joined(self.lm_head(hidden))

    def exact_logits(self, hidden: mx.array, ids: mx.array) -> mx.array:
        """Computes some logits in float32, whatever the dtype of the activations.

        Reads as many rows of the unembedding: 369 kB for 64 rows of the releases.

        Args:
            hidden: A final hidden state (C,).
            ids: (n,) int.

        Returns:
            The logits of these ids (n,).
        """
        # Not a product of matrices: on an M5, MLX computes those of float32 with 10 bits of precision.
        own = self.shard.part(self.config.vocab_size)
        logits = (rows_of(self.lm_head, self.shard.here(ids, own)) * hidden.astype(mx.float32)).sum(axis=-1)
        return self.shard.from_owners(logits, ids // own)
