"""A server that lies, hangs, disconnects or sends garbage: one sentence, in time, and no false answer."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.commands.in_process import command
from tests.slow_cases import mostly_slow
from utils.core.errors import LoraNsError
from utils.generation import server as connection

BASE = Path(__file__).parents[2] / "examples" / "quickstart" / "base"
ESCAPE, DEEP, DIGITS = "\x1b[31mred", b"[" * 200_000, b"9" * 6000
Act = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    server: Liar

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.act(self.server.listing)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.num_asked += 1
        first = self.server.num_asked == 1  # a probe for the accepted form of prompts
        self.act(answer() if first and self.server.begins_well else self.server.answer)

    def act(self, what: Any) -> None:
        if callable(what):
            what(self)
            return
        status, content = what if isinstance(what, tuple) else (200, what)
        self.reply(content if isinstance(content, bytes) else to_json(content), status)

    def reply(self, body: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length or len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


class Liar(ThreadingHTTPServer):
    daemon_threads = True
    listing: Any = None
    answer: Any = None
    begins_well = False
    num_asked = 0

    def handle_error(self, *_: Any) -> None:
        """Ignore that the command disconnects during an answer."""


def to_json(content: Any) -> bytes:
    return (content if isinstance(content, str) else json.dumps(content)).encode()


def listing(**changes: Any) -> dict[str, Any]:
    return {"data": [{"id": "base", "root": str(BASE), "parent": None, "max_model_len": 256, **changes}]}


def answer(**changes: Any) -> dict[str, Any]:
    choice = {"text": " 5", "finish_reason": "stop", **changes}
    return {"choices": [choice], "usage": {"completion_tokens": 1, "prompt_tokens": 1}}


def send_slowly(handler: Handler) -> None:
    """Send a byte now and then, always before a timeout."""
    handler.reply(b"", length=10**6)
    while not handler.wfile.closed:
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.001)


def close(handler: Handler) -> None:
    handler.connection.close()


def cut(handler: Handler) -> None:
    handler.reply(b'{"choices"', length=1000)
    handler.close_connection = True


def no_http(handler: Handler) -> None:
    handler.wfile.write(b"220 smtp ready\r\n")
    handler.close_connection = True


def bad_chunk(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    handler.close_connection = True


def stream(*events: Any, length: int | None = None, endless: bool = False) -> Act:
    """Answer by server-sent events, as --stream requests."""

    def send(handler: Handler) -> None:
        lines = [b"data: " + (each if isinstance(each, bytes) else to_json(each)) + b"\n\n" for each in events]
        handler.send_response(200)
        if length is not None:
            handler.send_header("Content-Length", str(length))
        handler.end_headers()
        handler.wfile.writelines(lines)
        while endless:
            handler.wfile.write(lines[-1])
        handler.close_connection = True

    return send


PIECE = {"choices": [{"text": "ab", "finish_reason": None}]}
ENDED = {"choices": [{"text": "", "finish_reason": "stop"}]}
ANYWHERE: dict[str, Any] = {
    "html": "<html>", "nothing": b"", "a list": [1], "null": b"null", "deep": DEEP,
    "not UTF-8": b'{"data": "\xff\xfe"}',
    "UTF-16": to_json(answer()).decode().encode("utf-16"), "204": (204, b""), "999": (999, b""),
    "redirect": (302, b""),
    "gzip of nothing": lambda handler: handler.reply(b"junk!", Content_Encoding="gzip"),
    "a bomb": lambda handler: handler.reply(gzip.compress(b"[" * 10**8, 1), Content_Encoding="gzip"),
    "no HTTP": no_http, "a bad chunk": bad_chunk, "closed": close, "cut off": cut, "a byte now and then": send_slowly,
    "silence": lambda _: time.sleep(0.6), "refused in a list": (400, [1]), "refused deep": (400, DEEP),
    "refused by a number": (400, {"error": {"message": 5}}), "refused by null": (400, {"error": None}),
    "refused in red": (400, ESCAPE.encode()), "busy for ever": (503, b""),
    "an error called a success": {"error": "no"},
}  # fmt: skip
LISTINGS: dict[str, Any] = {
    **{f"id {each!r}"[:30]: listing(id=each) for each in (None, 5, ["a"], "\ud800")},
    **{f"window {each!r}": listing(max_model_len=each) for each in ("x", -1, 0, True, 1e30, [1], 1.5, "256", 3)},
    **{f"meta {each!r}": listing(max_model_len=None, meta=each) for each in (5, "x", [1], {"n_ctx_train": "x"})},
    **{f"root {each!r}": listing(root=each) for each in (5, {}, ["a"])},
    **{f"parent {each!r}": listing(parent=each) for each in (5, {}, ["a"])},
    "data null": {"data": None}, "data a mapping": {"data": {"id": 1}}, "data of words": {"data": ["base"]},
    "no model": {"data": []}, "one name twice": {"data": listing()["data"] * 2}, "digits": b'{"data":' + DIGITS + b"}",
}  # fmt: skip
ANSWERS: dict[str, Any] = {
    **{f"text {each!r}"[:30]: answer(text=each) for each in (None, 5, ["a"], {"a": 1}, True)},
    **{f"ids {each!r}"[:30]: answer(token_ids=each)
       for each in (["a"], [-1], [10**9], [10**30], [1.5], "abc", {"a": 1}, [[1]], [True], [None], 5, [5] * 10**5)},
    **{f"ended by {each!r}": answer(finish_reason=each) for each in (5, {}, ["a"], "abort", "error")},
    **{f"usage {each!r}": {**answer(), "usage": each}
       for each in (5, "x", [1], {"completion_tokens": "x"}, {"completion_tokens": -5}, {"completion_tokens": [1]})},
    "choices a mapping": {"choices": {"a": 1}}, "choices null": {"choices": None},
    "choices a word": {"choices": "abc"},
    "choices of words": {"choices": ["abc"]}, "no choice": {"choices": []},
    "two choices": {"choices": answer()["choices"] * 2},
    "digits": b'{"choices":' + DIGITS + b"}", "no number": b'{"choices":[{"text": NaN}]}',
}  # fmt: skip
STREAMS: dict[str, Any] = {
    "a choice without text": stream({"choices": [{}]}, ENDED),
    "text null": stream({"choices": [{"text": None}]}, ENDED),
    "text 5": stream({"choices": [{"text": 5}]}, ENDED), "choices null": stream({"choices": None}, ENDED),
    "choices 5": stream({"choices": 5}, ENDED), "choices of words": stream({"choices": ["a"]}, ENDED),
    "no JSON": stream(b"{x", ENDED), "deep": stream(b'{"a":' * 100_000, ENDED),
    "ended by {}": stream({"choices": [{"text": "a", "finish_reason": {}}]}),
    "an error behind the first piece": stream(PIECE, {"error": {"message": "out of memory"}}),
    "aborted": stream(PIECE, {"choices": [{"text": "", "finish_reason": "abort"}]}),
    "cut off": stream(PIECE, length=9999), "no end": stream(PIECE), "nothing": stream(), "html": "<html>",
    "not UTF-8": stream(b'{"choices":[{"text":"\xff"}]}', ENDED), "endless": stream(PIECE, endless=True),
    "silence": lambda _: time.sleep(0.6),
}  # fmt: skip
FINE: dict[str, tuple[Any, Any]] = {
    "as it should be": (listing(), answer()),
    "little said": ({"data": [{"id": "base"}]}, {"choices": [{"text": " 5"}]}),
    "a root that is nowhere": (listing(root="/no/where"), answer()),
    "a root with NUL": (listing(root="a\0b"), answer()),
    "a long root": (listing(root="n" * 5000), answer()),
    "a root of nobody": (listing(root="~nobody-here/x"), answer()),
    "usage null": (listing(), {**answer(), "usage": None}), "usage empty": (listing(), {**answer(), "usage": {}}),
    "escape codes": (listing(id=ESCAPE, root=ESCAPE), answer()),
}  # fmt: skip
KINDS = {
    "listing": ANYWHERE | LISTINGS,
    "answer": ANYWHERE | ANSWERS,
    "later answer": ANYWHERE | ANSWERS,
    "stream": STREAMS,
}
CASES = [(kind, name) for kind, cases in KINDS.items() for name in cases]


@pytest.fixture(scope="module")
def lying_server() -> Iterator[Liar]:
    server = Liar(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def ask(lying_server: Liar, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that runs one text against the server's given listing and answer."""
    monkeypatch.setattr(connection, "_WAITS", (0.0, 0.0))
    monkeypatch.setattr(connection, "_TIMEOUTS", (1.0, 0.3))
    monkeypatch.setattr(connection, "_LISTING_TIMEOUTS", (1.0, 0.3))
    monkeypatch.setattr(connection, "_LARGEST", 2**20)

    def ask(listed: Any, answered: Any, *words: str, begins_well: bool = False) -> str:
        lying_server.listing, lying_server.answer, lying_server.begins_well, lying_server.num_asked = (
            listed,
            answered,
            begins_well,
            0,
        )
        url = f"http://127.0.0.1:{lying_server.server_port}/v1"
        given = ("--model", BASE, "--input_text", "dog", "--max_new_tokens", "4", "--server", url, *words)
        return str(command("inference", *given)["answers"][0]["answer"])

    return ask


@pytest.mark.parametrize(
    "case",
    mostly_slow(CASES, ("listing", "window '256'"), ("answer", "text None"), ("later answer", "a byte now and then"),
                ("later answer", "ids [-1]"), ("stream", "cut off"), ("stream", "endless")),
)  # fmt: skip
def test_invalid_responses_are_reported_in_one_sentence(
    case: tuple[str, str], ask: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    kind, name = case
    given, start = KINDS[kind][name], time.monotonic()
    both = (given, answer()) if kind == "listing" else (listing(), given)
    more = ["--stream"] if kind == "stream" else []
    with pytest.raises(LoraNsError) as error:
        ask(*both, *more, begins_well=kind in ("later answer", "stream"))
    assert len(str(error.value)) < 1000
    assert time.monotonic() - start < 10
    assert '"answer"' not in capsys.readouterr().out


@pytest.mark.parametrize("name", FINE)
def test_valid_responses_are_accepted(name: str, ask: Callable[..., str]) -> None:
    assert ask(*FINE[name]) == " 5"
