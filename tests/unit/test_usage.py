"""Usage read out of answers, and requests read and edited, against a plain JSON parser."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spotinfer.client.transport import request_body
from spotinfer.client.transport.usage import Usage, last_usage

CHAT = {"prompt_tokens": 21, "completion_tokens": 3, "total_tokens": 24, "prompt_tokens_details": {"cached_tokens": 20}}


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        (CHAT, Usage(21, 3, 20)),
        ({"prompt_tokens": 5, "total_tokens": 5}, Usage(5, 0)),
        ({**CHAT, "prompt_tokens_details": None}, Usage(21, 3)),
        ({**CHAT, "completion_tokens_details": {"reasoning_tokens": 2}}, Usage(21, 3, 20, 2)),
        (
            {
                "input_tokens": 7,
                "input_tokens_details": {"cached_tokens": 4},
                "output_tokens": 9,
                "output_tokens_details": {"reasoning_tokens": 5},
            },
            Usage(7, 9, 4, 5),
        ),
        ({"total_tokens": 3}, None),
        ({"prompt_tokens": -1}, None),
    ],
)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_every_known_shape_is_read(usage: dict[str, Any], read: Usage | None, separators: tuple[str, str]) -> None:
    body = json.dumps({"id": "x", "usage": usage, "timings": {"prompt_n": 1}}, separators=separators)
    assert last_usage(body.encode()) == read


def test_the_last_one_that_counts_is_taken() -> None:
    first, second = json.dumps({"usage": CHAT}), json.dumps({"usage": {"prompt_tokens": 1, "completion_tokens": 2}})
    assert last_usage((first + second + '{"usage": null}').encode()) == Usage(1, 2)


def test_a_tail_that_starts_and_ends_anywhere_is_no_error() -> None:
    body = json.dumps({"a": "é" * 5, "usage": CHAT}).encode() + b"\xc3"
    found = {last_usage(body[start:end]) for start in range(len(body)) for end in range(start, len(body) + 1)}
    assert found == {None, Usage(21, 3, 20)}


@given(st.text())
@example('"usage":{"prompt_tokens":9,"completion_tokens":9}')
@example('\\"usage\\":{"prompt_tokens":9}')
def test_generated_text_cannot_pass_for_usage(text: str) -> None:
    body = json.dumps({"usage": CHAT, "choices": [{"text": text}]}, ensure_ascii=False)
    assert last_usage(body.encode("utf-8", "surrogatepass")) == Usage(21, 3, 20)


TRAPS = st.sampled_from(
    [
        "stream",
        "model",
        "stream_options",
        '"stream":true',
        '","stream":true}',
        '"model":"x"',
        'x", "stream": true',
        "\\",
    ]
)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), TRAPS, st.text(max_size=8))
KEYS = st.one_of(st.sampled_from(["stream", "model", "stream_options", "messages", "tools", "prompt"]), TRAPS)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
OPTIONS = st.one_of(
    st.none(),
    st.just("bad"),
    st.fixed_dictionaries({}, optional={"include_usage": st.booleans(), "continuous_usage_stats": st.booleans()}),
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    fields: list[tuple[str, Any]] = list(draw(st.dictionaries(TRAPS | st.text(max_size=4), VALUES, max_size=4)).items())
    for name, values in (("model", TRAPS), ("stream", st.booleans()), ("stream_options", OPTIONS)):
        if draw(st.booleans()):
            fields.insert(draw(st.integers(0, len(fields))), (name, draw(values)))
    body = dict(fields)
    indent = draw(st.sampled_from([None, None, 1]))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    text = json.dumps(body, ensure_ascii=draw(st.booleans()), indent=indent, separators=separators)
    return body, (text + draw(st.sampled_from(["", "\n"]))).encode("utf-8", "surrogatepass")


@given(bodies())
def test_a_request_is_read_as_a_json_parser_reads_it(drawn: tuple[dict[str, Any], bytes]) -> None:
    params, body = drawn
    asked = request_body.read(body, add_usage=True)
    model = params.get("model")
    assert asked.model == (model if isinstance(model, str) else "")
    assert asked.stream == (params.get("stream") is True)
    options = params.get("stream_options")
    wanted = asked.stream and (options is None or (isinstance(options, dict) and not options.get("include_usage")))
    assert (asked.body is not None) == wanted
    if asked.body is not None:
        kept = {name: value for name, value in (options or {}).items() if name != "continuous_usage_stats"}
        assert json.loads(asked.body) == {**params, "stream_options": {**kept, "include_usage": True}}
        pairs = json.loads(asked.body, object_pairs_hook=lambda found: found)
        assert len({name for name, _ in pairs}) == len(pairs), "no key twice: some servers refuse that"


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b'{"model"', b"\xff\xfe", b'"model":1}', b"{" * 5000])
def test_what_is_no_request_passes_untouched(body: bytes) -> None:
    assert request_body.read(body, add_usage=True) == request_body.Asked()


def test_usage_is_not_asked_for_where_it_is_no_option() -> None:
    asked = request_body.read(b'{"model":"m","stream":true}', add_usage=False)
    assert asked == request_body.Asked("m", True, None)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_other_encodings_of_json_are_edited_right(encoding: str) -> None:
    body = json.dumps({"model": "m", "stream": True}).encode(encoding)
    asked = request_body.read(body, add_usage=True)
    assert asked.stream
    assert asked.body is not None
    assert json.loads(asked.body) == {"model": "m", "stream": True, "stream_options": {"include_usage": True}}
