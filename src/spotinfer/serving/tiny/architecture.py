"""The shape of the model and its weights."""

from __future__ import annotations

import random
import sys
from array import array
from collections.abc import Iterator
from typing import NamedTuple

from .vocabulary import SIZE, speakable

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD, FEED_FORWARD = 64, 2, 4, 2, 32, 128
CONTEXT = 2048
NORM_EPSILON = 1e-5
ROPE_BASE = 10000.0

STEER = 0
"""The feature that is the same at every position: no layer writes to it, so the output layer can rely on it."""
STEER_VALUE = 2.0
STEER_PENALTY = -200.0
"""Pushes unspeakable tokens some 100 below the others: out of reach at any temperature that makes sense."""


class Tensor(NamedTuple):
    """``rows`` times ``columns`` 32-bit floats, row by row; a vector has no ``columns``."""

    name: str
    values: array[float]
    rows: int
    columns: int = 0

    @property
    def shape(self) -> list[int]:
        return [self.rows, self.columns] if self.columns else [self.rows]

    def data(self) -> bytes:
        """Little-endian, on every machine."""
        if sys.byteorder == "big":
            swapped = array("f", self.values)
            swapped.byteswap()
            return swapped.tobytes()
        return self.values.tobytes()


def tensors(seed: int) -> Iterator[Tensor]:
    """The weights under their names in Hugging Face's Llama."""
    rng = random.Random(seed)
    yield _steer(_matrix(rng, "model.embed_tokens.weight", SIZE, HIDDEN, 1.0), [STEER_VALUE] * SIZE)
    for layer in range(LAYERS):
        yield from _layer(rng, f"model.layers.{layer}.")
    yield _ones("model.norm.weight")
    penalties = [0.0 if speakable(token) else STEER_PENALTY for token in range(SIZE)]
    yield _steer(_matrix(rng, "lm_head.weight", SIZE, HIDDEN, 1.0), penalties)


def _layer(rng: random.Random, prefix: str) -> Iterator[Tensor]:
    query, cache = HEADS * HEAD, KV_HEADS * HEAD
    for name, rows, columns in (
        ("self_attn.q_proj", query, HIDDEN),
        ("self_attn.k_proj", cache, HIDDEN),
        ("self_attn.v_proj", cache, HIDDEN),
        ("self_attn.o_proj", HIDDEN, query),
        ("mlp.gate_proj", FEED_FORWARD, HIDDEN),
        ("mlp.up_proj", FEED_FORWARD, HIDDEN),
        ("mlp.down_proj", HIDDEN, FEED_FORWARD),
    ):
        # 1.5 / sqrt(fan in): lively enough that prompts make a difference, tame enough that both engines round alike.
        tensor = _matrix(rng, f"{prefix}{name}.weight", rows, columns, 1.5 / columns**0.5)
        if rows == HIDDEN:
            tensor.values[STEER * columns : (STEER + 1) * columns] = array("f", bytes(4 * columns))
        yield tensor
    yield _ones(f"{prefix}input_layernorm.weight")
    yield _ones(f"{prefix}post_attention_layernorm.weight")


def _matrix(rng: random.Random, name: str, rows: int, columns: int, deviation: float) -> Tensor:
    # Uniform, since only random() itself promises the same numbers in every Python. sqrt(12): its inverse deviation.
    draw, scale = rng.random, deviation * 12**0.5
    return Tensor(name, array("f", [scale * (draw() - 0.5) for _ in range(rows * columns)]), rows, columns)


def _steer(tensor: Tensor, values: list[float]) -> Tensor:
    tensor.values[STEER :: tensor.columns] = array("f", values)
    return tensor


def _ones(name: str) -> Tensor:
    return Tensor(name, array("f", [1.0]) * HIDDEN, HIDDEN)
