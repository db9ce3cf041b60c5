"""A server's answers equal the model's own; errors are retried or reported, and no answer is lost."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.commands.in_process import command
from tests.model_server import BASE, Fault, Handler, ModelServer, serve
from utils.adapters.adapter import explain_unservable, load_adapter
from utils.config.sections.generation import GenerationSection
from utils.core.errors import UserError
from utils.generation import server as connection
from utils.generation.backend import generate_batches, open_backend
from utils.generation.backends import server as backend_module
from utils.generation.backends import transformers as own
from utils.generation.server import RefusedError, ServerError, open_server

SECTION = GenerationSection(max_new_tokens=10, batch_size=3)
TEXTS = ["Tom has 3 apples and gets", "Ann has 12 pens. She", "How many", "There are 9 cups and 2", "Sam"]
STOP = ("7", " is")


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with serve() as started:
        yield started


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch, server: ModelServer) -> None:
    monkeypatch.setattr(connection, "_WAITS", (0.01, 0.01))
    server.takes_ids = server.gives_ids = server.takes_more = True
    server.faults.clear()
    server.bodies.clear()


def ask(server: ModelServer, prompts: list[list[int]], **changes: Any) -> dict[int, Any]:
    section = SECTION.model_copy(update=changes)
    backend = open_backend(open_server(server.url), server.tokenizer, section, STOP)
    return dict(pair for batch in generate_batches(backend, prompts, backend.plan_batches(prompts)) for pair in batch)


def encode(server: ModelServer) -> list[list[int]]:
    return [list(server.tokenizer(text)["input_ids"]) for text in TEXTS]


@pytest.mark.parametrize(
    "changed",
    [{}, {"gives_ids": False}, {"takes_ids": False, "gives_ids": False}, {"takes_ids": False, "takes_more": False}],
)
def test_answers_equal_those_of_the_local_model(
    server: ModelServer, changed: dict[str, bool], caplog: pytest.LogCaptureFixture
) -> None:
    vars(server).update(changed)
    server.most_at_once = 0
    prompts = encode(server)
    backend = own.Backend(server.model, server.tokenizer, SECTION, STOP)
    expected = dict(backend.generate_batch(prompts, range(len(prompts))))
    caplog.set_level("INFO")
    assert ask(server, prompts) == expected
    assert any(each.finished for each in expected.values())
    assert not all(each.finished for each in expected.values())
    assert 1 < server.most_at_once <= 3
    assert f"prompts go as {'token ids' if server.takes_ids else 'texts'}" in caplog.text
    assert isinstance(server.bodies[-1]["prompt"], list if server.takes_ids else str)
    assert server.takes_more == ("stop_token_ids" in server.bodies[-1])
    if not server.takes_more:
        assert "its own end tokens count" in caplog.text
        with pytest.raises(UserError, match=r"neither min_tokens nor top_k; leave generation"):
            ask(server, prompts, min_new_tokens=1)


def drop(handler: Handler) -> None:
    handler.connection.close()


def cut(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices"')


def send_slowly(handler: Handler) -> None:
    """Send one byte every 5 ms, which resets the read timeout each time."""
    handler.send_response(200)
    handler.send_header("Content-Length", "400")
    handler.end_headers()
    with suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(400):
            handler.wfile.write(b"1")
            time.sleep(0.005)


def refuse(code: int, **headers: str) -> Fault:
    return lambda handler: handler.reply(code, {"error": {"message": "so busy"}}, **headers)


def test_temporary_errors_are_retried(server: ModelServer) -> None:
    prompts = encode(server)
    expected = ask(server, prompts)
    probed = len(server.bodies)
    server.faults[:] = [lambda handler: handler.answer({**server.bodies[-1], "max_tokens": 1}),
                        refuse(500), drop, refuse(503), cut]  # fmt: skip
    assert ask(server, prompts) == expected
    assert len(server.bodies) == 2 * probed + 4
    server.faults[:] = [refuse(429, Retry_After="1")]
    start = time.monotonic()
    assert ask(server, prompts[:1]) == {0: expected[0]}
    assert 1 <= time.monotonic() - start < 3


def test_a_refused_connection_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from utils.generation import server

    monkeypatch.setattr(server, "_WAITS", ())
    with pytest.raises(ServerError, match=r"no answer after 1 tries: no server listens there"):
        server.list_models("http://127.0.0.1:9/v1")


def test_permanent_errors_are_reported_in_one_sentence(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = encode(server)
    for faults, kind, said in (
        ([refuse(500)] * 3, ServerError, "no answer after 3 tries: 500 so busy; what was answered is kept"),
        ([drop] * 3, ServerError, "the connection was lost"),
        ([refuse(404)] * 4, RefusedError, "404 so busy"),
        ([lambda handler: handler.reply(200, "<html>")], ServerError, "not a completion .*JSON.*: <html>"),
        ([lambda handler: handler.reply(302, "", Location="http://127.0.0.1:9/")] * 4, RefusedError, "302"),
    ):
        server.faults[:] = faults
        with pytest.raises(kind, match=said):
            ask(server, prompts[:1])
    backend = open_backend(open_server(server.url), server.tokenizer, SECTION)
    server.faults[:] = [lambda handler: handler.reply(200, {"choices": []})]
    with pytest.raises(ServerError, match="not a completion"):
        backend.generate_batch(prompts, [0])
    monkeypatch.setattr(connection, "_TIMEOUTS", (1.0, 0.05))
    server.faults[:] = [lambda handler: time.sleep(0.2)] * 3
    with pytest.raises(ServerError, match="ReadTimeout"):
        backend.generate_batch(prompts, [0])
    server.faults[:] = [send_slowly] * 6  # a request of before may take one late
    start = time.monotonic()
    with pytest.raises(ServerError, match=r"no answer after 2 tries: the connection was lost \(ReadTimeout\)"):
        backend.generate_batch(prompts[:1], [0])
    assert time.monotonic() - start < 0.9, "the time limit is for the whole answer"


def test_the_request_holds_every_decoding_setting(server: ModelServer) -> None:
    prompts = encode(server)
    ask(server, prompts[:2], temperature=0.5, top_p=0.9, top_k=5, min_new_tokens=2, max_new_tokens=4)
    one, other = sorted(server.bodies[1:], key=lambda body: prompts.index(body["prompt"]))
    assert one["seed"] != other["seed"]
    known = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_tokens": 2, "max_tokens": 4, "stop": list(STOP),
             "stop_token_ids": [2], "model": "base", "return_token_ids": True}  # fmt: skip
    assert one.items() >= known.items()
    full = list(range(5, 200)) + list(range(5, 60))
    ask(server, [full])
    assert server.bodies[-1]["max_tokens"] == 6, "the model has 256 positions"


def test_the_api_key_is_sent_with_every_request_and_never_logged(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LORA_NS_API_KEY", "very-secret-key")
    caplog.set_level("DEBUG", "utils")
    server.faults[:] = [refuse(401)] * 4
    server.faults[0] = lambda handler: handler.reply(401, {"error": "bad key very-secret-key"})
    with pytest.raises(RefusedError) as error:
        ask(server, encode(server))
    assert server.keys[-1] == "Bearer very-secret-key"
    assert "very-secret-key" not in f"{error.value}{caplog.text}"


def test_a_server_with_another_api_is_reported(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for url, said in (
        ("127.0.0.1:8000", "give an address such as"),
        (server.url.replace("/v1", "x"), "Errno|resolve|port"),
    ):
        with pytest.raises((UserError, ServerError), match=said):
            open_server(url)
    with pytest.raises(UserError, match="the server has no such model; it serves base"):
        open_server(server.url, "other")
    monkeypatch.setattr(server, "models", [*server.models, {"id": "lora"}])
    with pytest.raises(UserError, match=r"serves base, lora; choose by --served_model"):
        open_server(server.url)


def test_a_server_that_lists_no_models_needs_a_model_name(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ask(server, encode(server))
    monkeypatch.setattr(server, "models", [])
    with pytest.raises(UserError, match=r"500 Internal Server Error.*name the model by --served_model"):
        open_server(server.url)
    served = open_server(server.url, "base")
    backend = open_backend(served, server.tokenizer, SECTION, STOP)
    assert dict(backend.generate_batch(encode(server), range(5))) == expected
    assert served.window is None


def _answer_file(server: ModelServer, folder: Path) -> Path:
    (folder / "in.txt").write_text("\n".join(TEXTS))
    command("inference", "--model", BASE, "--server", server.url, "--input_file", folder / "in.txt",
            "--output_file", folder / "out.jsonl", "--max_new_tokens", "6", "--batch_size", "2")  # fmt: skip
    return folder / "out.jsonl"


def test_no_answers_are_lost_when_a_server_dies(
    server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "whole").mkdir()
    whole = _answer_file(server, tmp_path / "whole")
    server.bodies.clear()
    monkeypatch.setattr(server, "dies_behind", 4)
    with pytest.raises(ServerError, match="what was answered is kept"):
        _answer_file(server, tmp_path)
    assert (tmp_path / "out.jsonl.partial.jsonl").read_bytes().count(b"\n") == 1 + 3
    monkeypatch.setattr(server, "dies_behind", None)
    server.bodies.clear()
    assert _answer_file(server, tmp_path).read_bytes() == whole.read_bytes()
    assert len(server.bodies) == 1 + 2, "a probe, and the rows that were missing"


def test_scores_by_a_server_equal_local_scores(server: ModelServer, tmp_path: Path) -> None:
    words = ["--model", BASE, "--set", "{name: gsm8k, path: examples/quickstart/arithmetic, label: test}",
             "evaluation.max_samples=6", "generation.max_new_tokens=6"]  # fmt: skip
    command("evaluate_model", *words, "--output_dir", tmp_path / "here")
    answer = command("evaluate_model", *words, "--server", server.url, "--output_dir", tmp_path / "there")
    assert answer["weights"]["server"] == server.url

    def read(name: str) -> list[Any]:
        rows = (tmp_path / name / "test/predictions.jsonl").read_text().splitlines()
        return [{**json.loads(row), "seconds": 0} for row in rows]

    assert read("here") == read("there")


def test_streamed_pieces_join_to_the_answer(server: ModelServer) -> None:
    backend = open_backend(open_server(server.url), server.tokenizer, SECTION, STOP)
    [prompt, *_], pieces = encode(server), list[str]()
    answer = backend.stream(prompt, pieces.append)
    assert "".join(pieces) == answer.text == backend.generate_batch([prompt], [0])[0][1].text
    assert isinstance(backend, backend_module.Backend)


@pytest.mark.parametrize(
    ("method", "given", "said"),
    [
        ("lora", {}, None), ("lora", {"use_dora": True}, "use_dora; merge it"), ("qst", {}, "cannot be merged"),
        ("prefix_tuning", {}, "train by lora"), ("ia3", {}, "merge_adapter.py"), ("none", {}, "already"),
    ],
)  # fmt: skip
def test_methods_declare_adapters_that_servers_cannot_load(
    method: str, given: dict[str, Any], said: str | None
) -> None:
    found = explain_unservable(load_adapter(method).Config(method=method, **given))
    assert found is None if said is None else said in str(found)
