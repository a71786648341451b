"""The model as one GGUF file (version 3), llama.cpp's container: key-value pairs, tensor table, aligned tensors."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

from .architecture import (
    FEED_FORWARD,
    HEAD,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    NORM_EPSILON,
    ROPE_BASE,
    Tensor,
    tensors,
)
from .vocabulary import CHAT_TEMPLATE, END, END_OF_TEXT, MERGES, SIZE, SPECIAL, TOKENS, token_id

ALIGNMENT = 32
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5  # kinds of tokens

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
"""Parts of Hugging Face's names -> parts of llama.cpp's."""


def write(path: Path, seed: int, context: int) -> None:
    pairs = list(_metadata(context))
    table: list[bytes] = []
    blobs: list[bytes] = []
    offset = 0
    for tensor in map(_translate, tensors(seed)):
        data = tensor.data()
        blobs.append(data + bytes(-len(data) % ALIGNMENT))
        table.append(_entry(tensor, offset))
        offset += len(blobs[-1])
    head = b"".join([b"GGUF", struct.pack("<IQQ", 3, len(table), len(pairs)), *pairs, *table])
    path.write_bytes(b"".join([head, bytes(-len(head) % ALIGNMENT), *blobs]))


def _entry(tensor: Tensor, offset: int) -> bytes:
    shape = tensor.shape[::-1]  # the fastest dimension first
    float32 = 0
    return _text(tensor.name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, float32, offset)


def _translate(tensor: Tensor) -> Tensor:
    name = tensor.name
    for theirs, ours in _NAMES.items():
        name = name.replace(theirs, ours)
    heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name.split(".")[-2])
    values = tensor.values if heads is None else _interleave(tensor, heads)
    return tensor._replace(name=name, values=values)


def _interleave(tensor: Tensor, heads: int) -> array[float]:
    """Rows in the order of llama.cpp's rotary embedding: it rotates neighbours where Hugging Face rotates halves."""
    half, width = tensor.rows // heads // 2, tensor.columns
    result = array("f")
    for head in range(heads):
        for row in range(half):
            for part in (0, half):
                start = (head * 2 * half + part + row) * width
                result += tensor.values[start : start + width]
    return result


def _metadata(context: int) -> Iterator[bytes]:
    yield _pair("general.architecture", _STRING, _text("llama"))
    yield _pair("general.name", _STRING, _text("tiny"))
    for key, number in (
        ("general.file_type", 0),
        ("llama.context_length", context),
        ("llama.embedding_length", HIDDEN),
        ("llama.block_count", LAYERS),
        ("llama.feed_forward_length", FEED_FORWARD),
        ("llama.attention.head_count", HEADS),
        ("llama.attention.head_count_kv", KV_HEADS),
        ("llama.attention.key_length", HEAD),
        ("llama.attention.value_length", HEAD),
        ("llama.rope.dimension_count", HEAD),
        ("llama.vocab_size", SIZE),
    ):
        yield _pair(key, _UINT32, struct.pack("<I", number))
    yield _pair("llama.attention.layer_norm_rms_epsilon", _FLOAT32, struct.pack("<f", NORM_EPSILON))
    yield _pair("llama.rope.freq_base", _FLOAT32, struct.pack("<f", ROPE_BASE))
    yield from _tokenizer()


def _tokenizer() -> Iterator[bytes]:
    unused = [f"[UNUSED{number}]" for number in range(len(TOKENS), SIZE)]
    kinds = [_CONTROL] * len(SPECIAL) + [_NORMAL] * (len(TOKENS) - len(SPECIAL)) + [_UNUSED] * len(unused)
    yield _pair("tokenizer.ggml.model", _STRING, _text("gpt2"))
    yield _pair("tokenizer.ggml.pre", _STRING, _text("gpt-2"))
    yield _list("tokenizer.ggml.tokens", _STRING, map(_text, [*TOKENS, *unused]))
    yield _list("tokenizer.ggml.token_type", _INT32, (struct.pack("<i", kind) for kind in kinds))
    yield _list("tokenizer.ggml.merges", _STRING, (_text(f"{left} {right}") for left, right in MERGES))
    yield _pair("tokenizer.ggml.eos_token_id", _UINT32, struct.pack("<I", token_id(END)))
    yield _pair("tokenizer.ggml.padding_token_id", _UINT32, struct.pack("<I", token_id(END_OF_TEXT)))
    yield _pair("tokenizer.ggml.add_bos_token", _BOOL, b"\0")
    yield _pair("tokenizer.chat_template", _STRING, _text(CHAT_TEMPLATE))


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _pair(key: str, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value


def _list(key: str, kind: int, values: Iterable[bytes]) -> bytes:
    items = list(values)
    return _pair(key, _ARRAY, struct.pack("<IQ", kind, len(items)) + b"".join(items))
