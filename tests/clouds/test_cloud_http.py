"""HTTP to clouds: what is sent, how often, and what each failure becomes."""

from __future__ import annotations

import base64
import json
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timezone
from typing import TypeVar

import anyio
import httpx2
import pytest

from spotinfer.core.errors import (
    ConfigError,
    MissingCredentials,
    NoCapacity,
    OutcomeUnknown,
    PermissionDenied,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    UnexpectedAnswer,
)
from spotinfer.core.secret import Secret
from spotinfer.core.virtual import run_virtual
from spotinfer.providers.answers import Answer, retry_after
from spotinfer.providers.http import CloudHttp, Conflict, Interval, NotFound, plain_id
from spotinfer.providers.once import OnePerKey
from spotinfer.providers.redact import Redactor, secrets_of
from spotinfer.providers.together import together
from spotinfer.providers.wiring import Dollars, Wire, parse

T = TypeVar("T")
KEY = "key-4f9a81c2d0"
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=timezone.utc)


class Line:
    """A cloud that answers what it is told, one thing after the other, and then the last of them for ever."""

    def __init__(self, *answers: httpx2.Response | Exception | float) -> None:
        self.answers, self.requests, self.times = list(answers), [], []

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        self.times.append(anyio.current_time())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, float):
            await anyio.sleep(answer)
            return httpx2.Response(200, json={})
        return answer

    def http(self, **options: object) -> CloudHttp:
        transport = httpx2.MockTransport(self)
        return CloudHttp("cloud", "https://api.cloud/v1", Secret(KEY), transport=transport, **options)  # type: ignore[arg-type]


def call(line: Line, *, method: str = "GET", options: dict[str, object] | None = None, **arguments: object) -> object:
    async def body() -> object:
        http = line.http(**(options or {}))
        try:
            return await http.request(method, "/things", **arguments)  # type: ignore[arg-type]
        finally:
            await http.aclose()

    return run_virtual(body)


def refused(error: type[T], line: Line, **arguments: object) -> T:
    with pytest.raises(error) as raised:  # type: ignore[type-var]
        call(line, **arguments)  # type: ignore[arg-type]
    return raised.value  # type: ignore[return-value]


def answer(status: int, body: object = None, **headers: str) -> httpx2.Response:
    return httpx2.Response(
        status, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


# --- what is sent ----------------------------------------------------------------------------------------------------


def test_a_call_carries_the_key_and_a_real_name() -> None:
    line = Line(answer(200, {"a": 1}))
    assert call(line, params={"x": 1, "left out": None}) == {"a": 1}
    request = line.requests[0]
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["user-agent"].startswith("spotinfer/")
    assert str(request.url) == "https://api.cloud/v1/things?x=1"


def test_an_empty_answer_is_none() -> None:
    assert call(Line(httpx2.Response(204)), method="DELETE") is None


@pytest.mark.parametrize("url", ["http://api.cloud/v1", "ftp://127.0.0.1", "api.cloud", "https://", "http://10.0.0.1"])
def test_a_key_goes_over_tls_or_stays_on_this_computer(url: str) -> None:
    with pytest.raises(ConfigError, match="https"):
        CloudHttp("cloud", url, Secret(KEY))


def test_loopback_needs_no_tls() -> None:
    for url in ("http://127.0.0.1:4000", "http://localhost:1/v2", "http://[::1]:9"):
        CloudHttp("cloud", url, Secret(KEY))


@pytest.mark.parametrize("key", ["with\nline-secret", "with blank-secret", "ключ-secret", "\x00-secret"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ConfigError) as raised:
        CloudHttp("cloud", "https://api.cloud", Secret(key))
    assert "secret" not in "".join(traceback.format_exception(raised.value))
    with pytest.raises(MissingCredentials):
        CloudHttp("cloud", "https://api.cloud", Secret(" \n"))


def test_a_redirect_is_not_followed_with_the_key() -> None:
    line = Line(answer(302, None, location="https://elsewhere/"))
    refused(UnexpectedAnswer, line)
    assert len(line.requests) == 1


# --- how often -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure",
    [
        answer(500),
        answer(503),
        answer(408),
        httpx2.ReadError("cut"),
        httpx2.ConnectError("no"),
        httpx2.ReadTimeout("slow"),
    ],
)
def test_what_may_be_repeated_is_repeated_with_growing_waits(failure: httpx2.Response | Exception) -> None:
    line = Line(failure, failure, answer(200, {"a": 1}))
    assert call(line) == {"a": 1}
    assert [later - earlier for earlier, later in zip(line.times, line.times[1:], strict=False)] == [0.25, 0.5]


def test_attempts_are_limited() -> None:
    line = Line(answer(503))
    refused(ProviderUnavailable, line)
    assert len(line.requests) == 3


@pytest.mark.parametrize("failure", [answer(500), httpx2.ReadError("cut"), httpx2.WriteError("half"), 10.0**6])
def test_the_call_that_rents_is_sent_once_and_its_outcome_is_unknown(
    failure: httpx2.Response | Exception | float,
) -> None:
    line = Line(failure)
    error = refused(OutcomeUnknown, line, method="POST", spends=True)
    assert len(line.requests) == 1
    assert "reap" in str(error)


@pytest.mark.parametrize(
    "failure", [httpx2.ConnectError("refused"), httpx2.ConnectTimeout("no"), httpx2.PoolTimeout("no")]
)
def test_what_was_never_sent_has_rented_nothing(failure: Exception) -> None:
    line = Line(failure)
    refused(ProviderUnavailable, line, method="POST", spends=True)
    assert len(line.requests) == 1


def test_a_post_is_not_repeated_unless_it_says_so() -> None:
    line = Line(answer(503), answer(200))
    refused(ProviderUnavailable, line, method="POST")
    assert len(line.requests) == 1
    line = Line(answer(503), answer(200))
    assert call(line, method="POST", idempotent=True) is None


def test_a_short_wait_for_the_rate_limit_is_waited_out_and_a_long_one_is_not() -> None:
    line = Line(answer(429, None, retry_after="2"), answer(200, {}))
    assert call(line) == {}
    assert line.times[1] - line.times[0] == 2
    line = Line(answer(429, None, retry_after="12"), answer(200, {}))
    assert refused(RateLimited, line).retry_after == 12
    assert len(line.requests) == 1


def test_intervals_are_kept_and_a_caller_that_does_not_wait_is_told_how_long() -> None:
    line = Line(answer(200, {}))

    async def body() -> float | None:
        http = line.http()
        slow, impatient = Interval("list", 2.0), Interval("list", 2.0, wait=False)
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(lambda: http.request("GET", "/things", interval=slow))
        with pytest.raises(RateLimited) as raised:
            await http.request("GET", "/things", interval=impatient)
        assert len(line.requests) == 3
        await http.request("GET", "/things", interval=Interval("other", 2.0))
        return raised.value.retry_after

    left = run_virtual(body)
    assert [later - earlier for earlier, later in zip(line.times, line.times[1:3], strict=False)] == [2, 2]
    assert left == 2


# --- what it becomes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"), [(404, NotFound), (410, NotFound), (409, Conflict), (422, UnexpectedAnswer)]
)
def test_what_the_adapter_must_decide(status: int, kind: type[ProviderError]) -> None:
    error = refused(kind, Line(answer(status, {"detail": "why"})))
    assert isinstance(error, UnexpectedAnswer)
    assert "why" in error.body


def test_a_block_on_the_way_is_no_bad_key() -> None:
    refused(ProviderUnavailable, Line(httpx2.Response(403, text="error code: 1010")))
    refused(PermissionDenied, Line(answer(403, {"title": "Forbidden", "detail": "access denied"})))


@pytest.mark.parametrize(
    ("text", "spends", "kind"),
    [
        ('{"pods": [', False, ProviderUnavailable),
        ('{"pods": [', True, OutcomeUnknown),
        ("<html>please log in</html>", False, UnexpectedAnswer),
        ("<html>please log in</html>", True, OutcomeUnknown),
        ("[" * 100_000, False, ProviderUnavailable),
    ],
)
def test_an_answer_that_is_no_json(text: str, spends: bool, kind: type[ProviderError]) -> None:
    refused(kind, Line(httpx2.Response(200, text=text)), spends=spends)


def test_the_clouds_words_are_found_wherever_it_puts_them() -> None:
    for body in (
        {"title": "Bad", "detail": "no GPU"},
        {"error": {"code": "x", "message": "no GPU"}},
        {"success": False, "error": "bad", "msg": "no GPU"},
        {"errors": ["no GPU"]},
        "no GPU",
    ):
        assert "no GPU" in refused(ProviderUnavailable, Line(answer(503, body))).message


def test_an_adapter_refines_an_answer_and_cannot_show_a_secret() -> None:
    def refine(seen: Answer) -> ProviderError | None:
        return NoCapacity(seen.message, provider="cloud") if (seen.call, seen.status) == ("GET /things", 400) else None

    line = Line(answer(400, f"none left for {KEY} and hunter2-hunter2"))
    error = refused(NoCapacity, line, options={"refine": refine}, secrets=[Secret("hunter2-hunter2")])
    assert str(error).startswith("cloud: none left for *** and ***")
    assert KEY not in repr(error)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        ("0.5", 0.5),
        ("Fri, 20 Nov 2026 12:01:30 GMT", 90),
        ("Fri, 20 Nov 2026 11:00:00 GMT", 0),
        ("99999999", 86400),
        ("-3", None),
        ("inf", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": value}, NOW) == seconds


# --- streams and downloads -------------------------------------------------------------------------------------------


class Stream(httpx2.AsyncByteStream):
    def __init__(self, *parts: bytes | float | Exception) -> None:
        self.parts, self.closed = parts, False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            if isinstance(part, Exception):
                raise part
            if isinstance(part, float):
                await anyio.sleep(part)
            else:
                yield part

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("parts", "lines"),
    [
        ((b"one\ntwo\n",), ["one", "two"]),
        ((b"one\n", 1.0, b"two\nthree\nfour\n"), ["one", "two", "three"]),
        ((b"one\n", 60.0, b"two\n"), ["one"]),
        ((b"one\n", httpx2.ReadError("cut")), ["one"]),
    ],
)
def test_a_stream_is_read_until_it_is_quiet(parts: tuple[bytes | float | Exception, ...], lines: list[str]) -> None:
    stream = Stream(*parts)

    async def body() -> list[str]:
        http = Line(httpx2.Response(200, stream=stream)).http()
        return await http.lines("/log", most=3, quiet=2.0, limit=30.0)

    assert run_virtual(body) == lines
    assert stream.closed


def test_a_stream_that_does_not_start_is_an_error() -> None:
    for failure, kind in (
        (answer(404), NotFound),
        (httpx2.ReadError("x"), ProviderUnavailable),
        (100.0, ProviderUnavailable),
    ):

        async def body(failure: httpx2.Response | Exception | float = failure) -> list[str]:
            return await Line(failure).http().lines("/log", limit=30.0)

        with pytest.raises(kind):
            run_virtual(body)


def test_a_download_does_not_carry_the_key() -> None:
    line = Line(answer(404), httpx2.Response(200, text="log"), answer(503))

    async def body() -> list[str | None]:
        http = line.http()
        found = [await http.download("https://store/log?signature=x/") for _ in range(2)]
        with pytest.raises(ProviderUnavailable):
            await http.download("https://store/log")
        with pytest.raises(UnexpectedAnswer):
            await http.download("http://store/log")
        return found

    assert run_virtual(body) == [None, "log"]
    assert "authorization" not in line.requests[0].headers
    assert str(line.requests[0].url) == "https://store/log?signature=x/"


# --- the parts -------------------------------------------------------------------------------------------------------


def test_secrets_are_removed_in_every_form() -> None:
    secret = 'pem line one\nwith "quotes" and a+b/c=='
    hide = Redactor([Secret(secret), Secret("short")])
    forms = [
        secret,
        json.dumps(secret),
        base64.b64encode(secret.encode()).decode(),
        json.dumps({"x": secret}),
        "x " + secret,
    ]
    for form in forms:
        shown = hide.text(form)
        assert "quotes" not in shown
        assert base64.b64encode(secret.encode()).decode() not in shown
    assert hide.text("a short word") == "a short word"
    assert "pem" not in repr(hide)


def test_telling_fields_are_never_shown() -> None:
    body = {
        "name": "x",
        "env": {"A": "visible-1"},
        "user_data": "visible-2",
        "list": [{"api_key": "visible-3"}],
        "key": "",
    }
    shown = Redactor().text(json.dumps(body))
    assert "visible" not in shown
    assert json.loads(shown)["name"] == "x"


def test_a_secret_at_the_cut_is_not_half_shown() -> None:
    assert "hunter2" not in Redactor([Secret("hunter2-hunter2")]).text("x" * 10 + "hunter2-hunter2", most=17)


def test_the_secrets_of_an_environment() -> None:
    assert secrets_of({"A": "plain", "B": Secret("b")}) == (Secret("b"),)


@pytest.mark.parametrize("id", ["", ".", "..", "../up", "a/b", "a?b", "a b", "-a", "a" * 200, "é", "%2e"])
def test_what_cannot_be_an_id(id: str) -> None:
    assert not plain_id(id)


def test_one_per_key() -> None:
    async def body() -> tuple[list[str], int]:
        once, seen = OnePerKey(), []

        async def run(key: str) -> None:
            async with once(key):
                seen.append(f"+{key}")
                await anyio.sleep(1)
                seen.append(f"-{key}")

        async with anyio.create_task_group() as tasks:
            for key in ("a", "a", "b"):
                tasks.start_soon(run, key)
        return seen, len(once._locks)

    seen, left = run_virtual(body)
    assert [word for word in seen if "a" in word] == ["+a", "-a", "+a", "-a"]
    assert seen.index("+b") < seen.index("-a")
    assert left == 0


def test_together_answers_in_order_and_raises_the_error_itself() -> None:
    async def after(seconds: float, result: int | ProviderError) -> int:
        await anyio.sleep(seconds)
        if isinstance(result, ProviderError):
            raise result
        return result

    async def body(*results: tuple[float, int | ProviderError]) -> list[int]:
        calls: list[Callable[[], Awaitable[int]]] = [lambda pair=pair: after(*pair) for pair in results]  # type: ignore[misc]
        return await together(calls)

    assert run_virtual(body, (3.0, 1), (1.0, 2)) == [1, 2]
    with pytest.raises(NoCapacity, match="none"):
        run_virtual(body, (10.0**6, 1), (1.0, NoCapacity("none")))


def test_amounts_are_exact_and_models_never_show_their_input() -> None:
    class Price(Wire):
        price: Dollars

    assert str(parse(Price, {"price": 0.1, "more": 1}, provider="cloud").price) == "0.1"
    shown = "-".join(("visible", "secret"))
    with pytest.raises(UnexpectedAnswer, match=r"Price does not fit: price") as raised:
        parse(Price, {"price": {"env": shown}}, provider="cloud")
    assert shown not in "".join(traceback.format_exception(raised.value))
