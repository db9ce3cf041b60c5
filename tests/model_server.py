"""A small local OpenAI-compatible server: a real model answers, and faults occur on request."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BASE = Path(__file__).parents[1] / "examples/quickstart/base"
Fault = Callable[["Handler"], None]


class ModelServer(ThreadingHTTPServer):
    """Serves the embedded base as `base`; each of `faults` replaces the answer to one request."""

    daemon_threads = True

    def __init__(self, takes_ids: bool = True, gives_ids: bool = True, port: int = 0) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        super().__init__(("127.0.0.1", port), Handler)
        self.model = AutoModelForCausalLM.from_pretrained(BASE)
        self.tokenizer = AutoTokenizer.from_pretrained(BASE)
        self.takes_ids, self.gives_ids, self.takes_more = takes_ids, gives_ids, True
        self.models: list[dict[str, Any]] = [{"id": "base", "root": str(BASE), "parent": None, "max_model_len": 256}]
        self.adapters: dict[str, Any] = {}
        self.handed: list[dict[str, Any]] = []
        self.faults: list[Fault] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.num_at_once = self.most_at_once = 0
        self.dies_behind: int | None = None
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the requests answered concurrently."""
        with self.lock:
            self.num_at_once += 1
            self.most_at_once = max(self.most_at_once, self.num_at_once)
        yield
        with self.lock:
            self.num_at_once -= 1

    def write(self, body: dict[str, Any]) -> tuple[str, list[int], str]:
        """Generate greedily or by seed; return the text before any stop string, the tokens, and the finish reason."""
        import torch

        draw = torch.Generator().manual_seed(body.get("seed", 0))

        model, prompt = self.adapters.get(body["model"], self.model), body["prompt"]
        ids = prompt if isinstance(prompt, list) else self.tokenizer(prompt)["input_ids"]
        ends = [self.tokenizer.eos_token_id, *body.get("stop_token_ids", [])]
        given: list[int] = []
        with torch.no_grad():
            while len(given) < body["max_tokens"]:
                logits = model(torch.tensor([[*ids, *given]])).logits[0, -1]
                drawn = torch.softmax(logits / (body["temperature"] or 1), -1).multinomial(1, generator=draw)
                given.append(int(drawn if body["temperature"] else logits.argmax()))
                text = self.tokenizer.decode(given, skip_special_tokens=True)
                found = [place for each in body.get("stop", []) if (place := text.find(each)) >= 0]
                if found or given[-1] in ends:
                    return text[: min(found, default=None)], given, "stop"
        return text, given, "length"


class Handler(BaseHTTPRequestHandler):
    server: ModelServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        listed = {"object": "list", "data": self.server.models}
        self.reply(200, listed) if self.server.models else self.reply(500, "Internal Server Error")

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            fault = server.faults.pop(0) if server.faults else None
            server.bodies.append(body)
            server.keys.append(self.headers.get("Authorization"))
        if fault is not None:
            fault(self)
        elif self.path.endswith("load_lora_adapter"):
            self.change_adapters(body)
        elif server.dies_behind is not None and len(server.bodies) > server.dies_behind:
            self.connection.close()
        elif isinstance(body["prompt"], list) and not server.takes_ids:
            self.reply(400, {"error": {"message": "prompt must be a string"}})
        elif not server.takes_more and body.keys() & {"stop_token_ids", "return_token_ids", "min_tokens", "top_k"}:
            self.reply(422, {"detail": "unexpected fields"})
        else:
            self.answer(body)

    def change_adapters(self, body: dict[str, str]) -> None:
        from peft import PeftModel
        from safetensors.torch import load_file
        from transformers import AutoModelForCausalLM

        name, adapters = body["lora_name"], self.server.adapters
        if self.path.endswith("/load_lora_adapter"):
            adapters[name] = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), body["lora_path"])
            self.server.handed.append(load_file(f"{body['lora_path']}/adapter_model.safetensors"))
        else:
            adapters.pop(name)
        self.reply(200, "done")

    def answer(self, body: dict[str, Any]) -> None:
        with self.server.counted():
            text, ids, ended_by = self.server.write(body)
        choice = {"text": text, "finish_reason": ended_by, "index": 0}
        if body.get("stream"):
            pieces = [{**choice, "text": each, "finish_reason": None} for each in (text[:3], text[3:])]
            sent = "".join(f"data: {json.dumps({'choices': [each]})}\n\n" for each in [*pieces, {**choice, "text": ""}])
            self.reply(200, f"{sent}data: [DONE]\n\n")
            return
        choice |= {"token_ids": ids} if self.server.gives_ids and body.get("return_token_ids") else {}
        self.reply(200, {"choices": [choice], "usage": {"completion_tokens": len(ids)}})

    def reply(self, code: int, content: Any, **headers: str) -> None:
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serve(**given: Any) -> Iterator[ModelServer]:
    """Serve on a free port of this machine until the block ends."""
    server = ModelServer(**given)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
