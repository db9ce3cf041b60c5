"""A model behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp): which one it is, and how it is asked."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import requests

from utils.core.errors import LoraNsError, UserError
from utils.core.secrets import mask_text

logger = logging.getLogger(__name__)

KEY_VARIABLE = "LORA_NS_API_KEY"
_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further try: a server may be loading its model, or have too much to do."""
_LONGEST_WAIT = 60.0
_TIMEOUTS = (10.0, 600.0)
"""Seconds to connect, and between two pieces of an answer: a long one comes as a whole."""
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_LOST = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class ServerError(LoraNsError):
    """The server does not answer, or not as it should; what was answered before is kept."""


class RefusedError(ServerError):
    """The server says that a request is wrong."""


class BusyError(ServerError):
    """The server answers, time after time, that it cannot."""


@dataclass(frozen=True)
class ServedModel:
    """One model of a server."""

    url: str
    """Up to and with `/v1`."""
    name: str
    """As the server calls it."""
    window: int | None = None
    """Tokens that it holds; None: the server does not say."""
    root: str | None = None
    """What the server loaded: a hub name or folder; None: it does not say."""
    parent: str | None = None
    """The base's name where it is an adapter."""
    weights: str | None = None
    """Hash of its weights, where they are known: those that this process has handed over, or that lie in `root`."""

    @property
    def identity(self) -> str:
        """Name the weights as far as they are known."""
        return self.weights or f"served: {self.name} ({self.root}, {self.parent})"

    def describe(self) -> dict[str, str]:
        """Say for a record which model of which server it is."""
        known = {"server": mask_text(self.url), "served_model": self.name, "served_from": self.root}
        return {key: value for key, value in known.items() if value is not None}

    def post(self, path: str, body: Mapping[str, Any], stream: bool = False) -> requests.Response:
        """Send one request on this model's server; see `send`."""
        return send("POST", f"{self.url}/{path}", json=body, stream=stream)


def send(method: str, url: str, **given: Any) -> requests.Response:
    """Send a request, again after a growing while where the server is busy or the connection is lost.

    The key of the environment's LORA_NS_API_KEY goes with it.

    Raises:
        RefusedError: The server says what is wrong with it.
        ServerError: There was no answer after several tries.
    """
    key = os.environ.get(KEY_VARIABLE)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    shown = mask_text(url)
    for wait in (*_WAITS, None):
        asked, response = 0.0, None
        try:
            response = requests.request(
                method, url, headers=headers, timeout=_TIMEOUTS, allow_redirects=False, **given
            )  # one that leads elsewhere would take the key along
        except _LOST as error:
            is_refused = "refused" in str(error)  # by the machine: no such port is open
            reason = "no server listens there" if is_refused else f"the connection was lost ({type(error).__name__})"
        except requests.RequestException as error:
            raise UserError(f"--server {shown}: {mask_text(str(error))}") from None
        else:
            if response.ok and not response.is_redirect:
                return response
            reason = f"{response.status_code} {_explain(response)}"
            if response.status_code not in _BUSY:
                raise RefusedError(f"{shown}: the server refused a request: {reason}")
            asked = _read_wait(response)
        if wait is None:
            break
        logger.info("%s: %s; trying again", shown, reason)
        time.sleep(max(wait, asked))
    kind = ServerError if response is None else BusyError
    raise kind(f"{shown}: no answer after {len(_WAITS) + 1} tries: {reason}; what was answered is kept")


def open_server(url: str, name: str | None = None) -> ServedModel:
    """Look which models a server has, and take the one of a name, or the only one.

    Raises:
        UserError: There is no such server, or no such model; one that lists none is taken by its name.
    """
    url = url.rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise UserError(f"--server {mask_text(url)}: give an address such as http://127.0.0.1:8000/v1")
    try:
        models = list_models(url)
    except (RefusedError, BusyError) as error:
        if name is None:
            raise UserError(f"{error}; name the model by --served_model, or end the address with /v1") from None
        logger.warning("%s: lists no models, so it is not known what %s was loaded from", mask_text(url), name)
        return ServedModel(url, name)
    names = [str(each["id"]) for each in models]
    if name is None and len(names) != 1:
        raise UserError(f"--server {mask_text(url)} serves {', '.join(names) or 'no model'}; choose by --served_model")
    if name is not None and name not in names:
        raise UserError(f"--served_model {name}: the server has no such model; it serves {', '.join(names)}")
    found = models[0 if name is None else names.index(name)]
    window = found.get("max_model_len") or (found.get("meta") or {}).get("n_ctx_train")
    return ServedModel(url, str(found["id"]), window, found.get("root"), found.get("parent"))


def list_models(url: str) -> list[dict[str, Any]]:
    """List a server's models as it describes them."""
    models = read_json(send("GET", f"{url}/models")).get("data")
    if not isinstance(models, list) or not all(isinstance(each, dict) and "id" in each for each in models):
        raise UserError(f"--server {mask_text(url)}: lists no models; give an address such as http://127.0.0.1:8000/v1")
    return models


@contextmanager
def serving_adapter(url: str, name: str, folder: Path, weights: str) -> Iterator[ServedModel]:
    """Have a running vLLM load the adapter in a folder that it can read, and forget it afterwards.

    Raises:
        ServerError: It cannot, or was not started so that it may.
    """
    url = url.rstrip("/")
    base = open_server(url, next((str(each["id"]) for each in list_models(url) if not each.get("parent")), None))
    try:
        base.post("load_lora_adapter", {"lora_name": name, "lora_path": str(folder.resolve())})
    except RefusedError as error:
        raise ServerError(
            f"{error}; the adapter could not be handed over: start vLLM with --enable-lora --max-lora-rank N and "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, on a machine that sees the run's folder"
        ) from None
    try:
        yield replace(base, name=name, root=str(folder), parent=base.name, weights=weights)
    finally:
        base.post("unload_lora_adapter", {"lora_name": name})


def read_json(response: requests.Response) -> dict[str, Any]:
    """Read a response that has to be a JSON object."""
    try:
        data = response.json()
    except requests.JSONDecodeError:
        data = None
    if not isinstance(data, dict):
        raise ServerError(f"{mask_text(response.url)}: answered what is no JSON object: {response.text[:200]!r}")
    return data


def _explain(response: requests.Response) -> str:
    """Give the server's own words: OpenAI's error object, or the text."""
    try:
        said = response.json()
        said = said.get("error", said)
        text = said.get("message") or json.dumps(said) if isinstance(said, dict) else str(said)
    except (requests.JSONDecodeError, AttributeError):
        text = response.text
    return mask_text(" ".join(text.split())[:300])


def _read_wait(response: requests.Response) -> float:
    """Read how many seconds the server asks to wait; dates, which it may also give, count for nothing."""
    asked = response.headers.get("Retry-After", "")
    return min(float(asked), _LONGEST_WAIT) if asked.isdecimal() else 0.0
