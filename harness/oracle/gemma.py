"""The forward pass of Gemma 3 on text, in NumPy float64, from the papers.

A layer is (Gemma 2, arXiv 2408.00118, sec. 2: norms before and after each half;
Gemma 3, arXiv 2503.19786, sec. 2: normalised queries and keys in slot of soft caps)

    y = x + post_attention_norm(attention(pre_attention_norm(x)))
    z = y + post_ffw_norm(feed_forward(pre_ffw_norm(y)))

Weights are keyed by the slash-joined path that upstream's module gives them. With V
words, D embedding, F hidden units, N query heads, K key-value heads of H units each:

    embedder/input_embedding          [V, D]        read by row, written out by 'btd,vd->btv'
    final_norm/scale                  [D]
    layers/I/pre_attention_norm/scale [D]           also post_attention_norm, pre_ffw_norm and
                                                    post_ffw_norm
    layers/I/attn/q_einsum/w          [N, D, H]     'btd,ndh->btnh'      where N differs from K
    layers/I/attn/kv_einsum/w         [2, K, D, H]  'btd,ckdh->cbtkh'    keys, then values
    layers/I/attn/qkv_einsum/w        [3, N, D, H]  'btd,cndh->cbtnh'    where N equals K
    layers/I/attn/_query_norm/scale   [H]           also _key_norm
    layers/I/attn/attn_vec_einsum/w   [N, H, D]     'btnh,nhd->btd'
    layers/I/mlp/gate_proj/kernel     [D, F]        'btd,df->btf'        also up_proj
    layers/I/mlp/down_proj/kernel     [F, D]        'btf,fd->btd'

Rows may be padded at either end. What comes out at a pad is finite and means nothing.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from harness.oracle import rollout

Weights = Mapping[str, np.ndarray]
Kind = Literal["local", "global"]

# The product of a pair in the layout of the weight that it adapts; r is the rank.
_PRODUCTS = {
    "q_einsum/w": "dr,rnh->ndh",
    "kv_einsum/w": "dr,rckh->ckdh",
    "qkv_einsum/w": "dr,rcnh->cndh",
    "attn_vec_einsum/w": "nhr,rd->nhd",
    "gate_proj/kernel": "dr,rf->df",
    "up_proj/kernel": "dr,rf->df",
    "down_proj/kernel": "fr,rd->fd",
}


@dataclasses.dataclass(frozen=True)
class Shape:
    """What the weights alone do not say.

    Queries are scaled by head_dim ** -0.5, as in every Gemma 3 but the one of 27B.

    Attributes:
      num_heads: Query heads, N.
      num_kv_heads: Key-value heads, K; it divides N.
      head_dim: Units of a head, H; even.
      sliding_window: Places that a local layer sees, the query's own among them.
      local_base: RoPE's base in local layers.
      global_base: RoPE's base in global layers.
      pattern: Kinds of the layers, repeated as often as there are layers.
      local_scale: Divisor of the positions in local layers.
      global_scale: Divisor of the positions in global layers.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    sliding_window: int
    local_base: float
    global_base: float
    pattern: tuple[Kind, ...]
    local_scale: float = 1.0
    global_scale: float = 1.0

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"{self.num_heads} heads do not share {self.num_kv_heads} kv heads")
        if self.head_dim % 2:
            raise ValueError(f"RoPE turns pairs: head_dim {self.head_dim} is odd")
        if self.sliding_window < 1:
            raise ValueError(f"sliding_window {self.sliding_window} is less than one slot")
        if not self.pattern or set(self.pattern) - {"local", "global"}:
            raise ValueError(f"pattern {self.pattern} is not made of 'local' and 'global'")


def rms_norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Normalise the last axis: x / sqrt(mean(x^2) + 1e-6) * (1 + scale).

    Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4; Gemma keeps the gain minus one.

    Args:
      x: [..., D].
      scale: [D]; zero is a gain of one.

    Returns:
      float64 [..., D].
    """
    x, scale = _float64(x), _float64(scale)
    mean_square = np.mean(x**2, axis=-1, keepdims=True)
    return x / np.sqrt(mean_square + 1e-6) * (1 + scale)


def rope(
    x: np.ndarray, positions: np.ndarray, base: float, scale_factor: float = 1.0
) -> np.ndarray:
    """Turn pairs of units by angles that grow with the position.

    Pair i is turned by position / scale_factor * base^(-2i / H) (Su et al. 2021,
    arXiv 2104.09864, eq. 15). The paper pairs neighbours; Gemma pairs unit i with
    unit i + H/2. A factor above one stretches the context (Gemma 3, sec. 2).

    Args:
      x: [B, T, N, H].
      positions: [B, T].
      base: Base of the frequencies.
      scale_factor: Divisor of the positions.

    Returns:
      float64 [B, T, N, H].
    """
    x = _float64(x)
    half = x.shape[-1] // 2
    frequency = float(base) ** (-np.arange(half) / half)
    angle = _float64(positions)[:, :, None, None] / scale_factor * frequency
    real, imaginary = x[..., :half], x[..., half:]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([real * cos - imaginary * sin, real * sin + imaginary * cos], axis=-1)


def gelu(x: np.ndarray) -> np.ndarray:
    """Return GELU's tanh form, which Gemma uses.

    x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))): Hendrycks and Gimpel 2016,
    arXiv 1606.08415, sec. 2. It differs from x * Phi(x) by up to 5e-4.

    Args:
      x: Any shape.

    Returns:
      float64, of x's shape.
    """
    x = _float64(x)
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attention_mask(mask: np.ndarray, window: int | None = None) -> np.ndarray:
    """Describe which key j each query i sees: real ones, j <= i, and i - j < window.

    The window (Beltagy et al. 2020, arXiv 2004.05150, sec. 3.1; Gemma looks back only)
    counts slots of the row. That is the same as counting positions where a row's
    tokens are contiguous, as they are with pads at its ends; a pad between two tokens
    takes up a slot and no position.

    Args:
      mask: bool [B, L]; true at real tokens.
      window: Places that a query sees, its own among them; all where none.

    Returns:
      bool [B, L, L], by query and key; a query that is a pad may see nothing.
    """
    mask = np.asarray(mask, bool)
    slot = np.arange(mask.shape[-1])
    back = slot[:, None] - slot[None, :]
    seen = (back >= 0) if window is None else (back >= 0) & (back < window)
    return seen & mask[:, None, :]


def grouped_query_attention(
    queries: np.ndarray, keys: np.ndarray, values: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """Return softmax(q k / sqrt(H)) v, with N / K query heads to a key-value head.

    Vaswani et al. 2017, arXiv 1706.03762, eq. 1; Ainslie et al. 2023, arXiv 2305.13245,
    sec. 2.2: query heads n * N/K to (n + 1) * N/K - 1 share key-value head n.

    Args:
      queries: [B, T, N, H].
      keys: [B, S, K, H].
      values: [B, S, K, H].
      mask: bool [B, T, S].

    Returns:
      float64 [B, T, N, H]; zero for a query that sees nothing.
    """
    group = queries.shape[2] // keys.shape[2]
    keys, values = (np.repeat(_float64(x), group, axis=2) for x in (keys, values))
    scores = np.einsum("btnh,bsnh->bnts", _float64(queries), keys) / math.sqrt(keys.shape[-1])
    mask = np.broadcast_to(np.asarray(mask, bool)[:, None], scores.shape)
    # A row's largest score is taken off, lest exp overflow; where nothing is seen, zero.
    top = np.max(scores, axis=-1, keepdims=True, where=mask, initial=-np.inf)
    shifted = scores - np.where(np.isneginf(top), 0.0, top)
    odds = np.where(mask, np.exp(np.where(mask, shifted, 0.0)), 0.0)
    total = np.sum(odds, axis=-1, keepdims=True)
    return np.einsum("bnts,bsnh->btnh", odds / np.where(total == 0, 1.0, total), values)


def attention(
    x: np.ndarray,
    weights: Weights,
    positions: np.ndarray,
    mask: np.ndarray,
    shape: Shape,
    kind: Kind,
) -> np.ndarray:
    """Return the attention half of a layer, without its norms.

    Queries and keys are normalised and then turned (Gemma 3, sec. 2).

    Args:
      x: [B, L, D].
      weights: Those under `layers/I/attn`, by their paths below it.
      positions: int [B, L].
      mask: bool [B, L]; true at real tokens.
      shape: Heads, window and RoPE.
      kind: Whether the layer sees a window or everything.

    Returns:
      float64 [B, L, D].

    Raises:
      ValueError: The weights are of another shape.
    """
    if "qkv_einsum/w" in weights:
        q, k, v = np.einsum("btd,cndh->cbtnh", x, _float64(weights["qkv_einsum/w"]))
    else:
        q = np.einsum("btd,ndh->btnh", x, _float64(weights["q_einsum/w"]))
        k, v = np.einsum("btd,ckdh->cbtkh", x, _float64(weights["kv_einsum/w"]))
    found = (q.shape[2], k.shape[2], q.shape[3])
    wanted = (shape.num_heads, shape.num_kv_heads, shape.head_dim)
    if found != wanted:
        raise ValueError(f"the weights have heads, kv heads and head_dim {found}, not {wanted}")
    local = kind == "local"
    base = shape.local_base if local else shape.global_base
    scale_factor = shape.local_scale if local else shape.global_scale
    q = rope(rms_norm(q, weights["_query_norm/scale"]), positions, base, scale_factor)
    k = rope(rms_norm(k, weights["_key_norm/scale"]), positions, base, scale_factor)
    seen = attention_mask(mask, shape.sliding_window if local else None)
    mixed = grouped_query_attention(q, k, v, seen)
    return np.einsum("btnh,nhd->btd", mixed, _float64(weights["attn_vec_einsum/w"]))


def feed_forward(x: np.ndarray, weights: Weights) -> np.ndarray:
    """Return (gelu(x gate) * (x up)) down, without its norms.

    Shazeer 2020, arXiv 2002.05202, eq. 6 (GEGLU), with gelu's tanh form.

    Args:
      x: [B, L, D].
      weights: Those under `layers/I/mlp`, by their paths below it.

    Returns:
      float64 [B, L, D].
    """
    x = _float64(x)
    gate, up, down = (
        _float64(weights[f"{name}/kernel"]) for name in ("gate_proj", "up_proj", "down_proj")
    )
    return (gelu(x @ gate) * (x @ up)) @ down


def hidden_states(weights: Weights, ids: np.ndarray, mask: np.ndarray, shape: Shape) -> np.ndarray:
    """Return the normalised state after the last layer.

    Embeddings are multiplied by sqrt(D) when they are read (arXiv 1706.03762, sec. 3.4).

    Args:
      weights: All of the model, without LoRA pairs (see `merge_lora`).
      ids: int [B, L]; at pads, any id of the vocabulary.
      mask: bool [B, L]; true at real tokens.
      shape: What the weights do not say.

    Returns:
      float64 [B, L, D].

    Raises:
      ValueError: The weights are of another shape.
    """
    table = _float64(weights["embedder/input_embedding"])
    x = table[np.asarray(ids)] * math.sqrt(table.shape[-1])
    positions = rollout.positions(mask)
    depth = len({path.split("/")[1] for path in weights if path.startswith("layers/")})
    for index in range(depth):
        layer = _under(weights, f"layers/{index}")
        kind = shape.pattern[index % len(shape.pattern)]
        mixed = attention(
            rms_norm(x, layer["pre_attention_norm/scale"]),
            _under(layer, "attn"),
            positions,
            mask,
            shape,
            kind,
        )
        x = x + rms_norm(mixed, layer["post_attention_norm/scale"])
        out = feed_forward(rms_norm(x, layer["pre_ffw_norm/scale"]), _under(layer, "mlp"))
        x = x + rms_norm(out, layer["post_ffw_norm/scale"])
    return rms_norm(x, weights["final_norm/scale"])


def forward(weights: Weights, ids: np.ndarray, mask: np.ndarray, shape: Shape) -> np.ndarray:
    """Return the logits of the next token: the last state times the embedding table.

    The table is shared between input and output, and nothing caps the logits (Gemma 3,
    sec. 2).

    Args:
      weights: As in `hidden_states`.
      ids: int [B, L].
      mask: bool [B, L]; true at real tokens.
      shape: What the weights do not say.

    Returns:
      float64 [B, L, V].

    Raises:
      ValueError: The weights are of another shape.
    """
    hidden = hidden_states(weights, ids, mask, shape)
    return hidden @ _float64(weights["embedder/input_embedding"]).T


def values(
    weights: Weights,
    score_weights: np.ndarray,
    ids: np.ndarray,
    mask: np.ndarray,
    shape: Shape,
    score_bias: float = 0.0,
) -> np.ndarray:
    """Return a critic's value of the state after reading each token.

    Args:
      weights: Those of the critic's backbone, as in `hidden_states`.
      score_weights: The score head, [D, 1] or [D].
      ids: int [B, L].
      mask: bool [B, L]; true at real tokens.
      shape: What the weights do not say.
      score_bias: Bias of the score head.

    Returns:
      float64 [B, L].

    Raises:
      ValueError: The weights are of another shape.
    """
    hidden = hidden_states(weights, ids, mask, shape)
    return hidden @ _float64(score_weights).reshape(hidden.shape[-1]) + score_bias


def split_lora(
    parameters: Weights,
) -> tuple[dict[str, np.ndarray], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Parts the parameters of an adapted model into its weights and its pairs.

    Args:
      parameters: By path; the pair of weight `P` is at `P_lora_a` and `P_lora_b`.

    Returns:
      The weights by path, and the pairs (A, B) by the path of the weight they adapt.

    Raises:
      KeyError: A pair lacks its other half.
    """
    first, second = "_lora_a", "_lora_b"
    weights = {p: w for p, w in parameters.items() if not p.endswith((first, second))}
    adapted = {p[: -len(first)] for p in parameters if p.endswith((first, second))}
    pairs = {p: (parameters[p + first], parameters[p + second]) for p in sorted(adapted)}
    return weights, pairs


def merge_lora(
    weights: Weights, factors: Mapping[str, tuple[np.ndarray, np.ndarray]], scale: float
) -> dict[str, np.ndarray]:
    """Add LoRA pairs to the weights that they adapt: W + scale * A B.

    Hu et al. 2021, arXiv 2106.09685, eq. 3, whose B A is A B here, since states are rows.
    A has the axes of W that the input is summed over, then the rank; B has the rank, then
    W's other axes in their order; the product has W's order:

        q_einsum/w        A [D, r]     B [r, N, H]     'dr,rnh->ndh'
        kv_einsum/w       A [D, r]     B [r, 2, K, H]  'dr,rckh->ckdh'
        qkv_einsum/w      A [D, r]     B [r, 3, N, H]  'dr,rcnh->cndh'
        attn_vec_einsum/w A [N, H, r]  B [r, D]        'nhr,rd->nhd'
        */kernel          A [in, r]    B [r, out]      'ir,ro->io'

    Args:
      weights: By path.
      factors: Pairs (A, B) by the path of the weight they adapt; may be empty.
      scale: alpha / rank.

    Returns:
      The weights by path, float64 where they were adapted.

    Raises:
      ValueError: A pair is for no weight, for one that takes none, or of another shape.
    """
    merged = dict(weights)
    for path, (a, b) in factors.items():
        product = _PRODUCTS.get("/".join(path.split("/")[-2:]))
        if product is None or path not in weights:
            raise ValueError(f"no weight {path} that takes a LoRA pair")
        delta = np.einsum(product, _float64(a), _float64(b))
        weight = _float64(weights[path])
        if delta.shape != weight.shape:
            raise ValueError(f"the pair of {path} makes {delta.shape}, not {weight.shape}")
        merged[path] = weight + scale * delta
    return merged


def _under(weights: Weights, prefix: str) -> dict[str, np.ndarray]:
    start = f"{prefix}/"
    return {path[len(start) :]: w for path, w in weights.items() if path.startswith(start)}


def _float64(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float64)
