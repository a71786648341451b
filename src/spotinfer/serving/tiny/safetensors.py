"""The model as a Hugging Face folder: ``config.json``, tokenizer, and ``model.safetensors``.

The container: 8 bytes with the length of a JSON header, the header, then the tensors one after another.
"""

from __future__ import annotations

import json
import struct
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
    tensors,
)
from .vocabulary import CHAT_TEMPLATE, END, END_OF_TEXT, MERGES, SIZE, SPECIAL, TOKENS, token_id


def write(folder: Path, seed: int, context: int) -> None:
    folder.mkdir()
    stops = {"eos_token_id": token_id(END), "pad_token_id": token_id(END_OF_TEXT)}
    _json(folder / "config.json", {**_config(context), **stops})
    _json(folder / "generation_config.json", stops)
    _json(folder / "tokenizer.json", _tokenizer())
    _json(folder / "tokenizer_config.json", _tokenizer_config(context))
    _weights(folder / "model.safetensors", seed)


def _json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _weights(path: Path, seed: int) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    blobs: list[bytes] = []
    end = 0
    for tensor in tensors(seed):
        blobs.append(tensor.data())
        start, end = end, end + len(blobs[-1])
        header[tensor.name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(b"".join([struct.pack("<Q", len(text)), text, *blobs]))


def _config(context: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "torch_dtype": "float32",
        "vocab_size": SIZE,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD,
        "intermediate_size": FEED_FORWARD,
        "hidden_act": "silu",
        "rms_norm_eps": NORM_EPSILON,
        "rope_theta": ROPE_BASE,
        "max_position_embeddings": context,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
    }


def _tokenizer_config(context: int) -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "bos_token": None,
        "eos_token": END,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def _tokenizer() -> dict[str, object]:
    bytewise = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token_id(token), "content": token, **flags} for token in SPECIAL],
        "normalizer": None,
        "pre_tokenizer": bytewise,
        "post_processor": bytewise,
        "decoder": bytewise,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(TOKENS)},
            "merges": MERGES,
        },
    }
