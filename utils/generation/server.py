"""A model behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp): finding it, and sending requests."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import requests
import urllib3
from pydantic import BaseModel, BeforeValidator, Field, NonNegativeInt, PositiveInt, ValidationError

from utils.core.errors import LoraNsError, UserError
from utils.core.json_files import NotJsonError, parse_json
from utils.core.secrets import mask_text

logger = logging.getLogger(__name__)

KEY_VARIABLE = "LORA_NS_API_KEY"
_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each retry: a server may be loading its model, or overloaded."""
_LONGEST_WAIT = 60.0
_TIMEOUTS = (10.0, 600.0)
"""Seconds to connect, and to wait for an answer or the next piece of a stream."""
_LISTING_TIMEOUTS = (10.0, 30.0)
_LARGEST = 64 * 2**20
"""Maximum size of an answer in bytes."""
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_LATE = (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError)
_LOST = (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError)
T = TypeVar("T")
Kind = TypeVar("Kind", bound=BaseModel)


class ServerError(LoraNsError):
    """The server does not answer, or not as it should; earlier answers are kept."""


class RefusedError(ServerError):
    """The server rejects a request as invalid."""


class BusyError(ServerError):
    """The server repeatedly answers that it is unavailable."""


class Choice(BaseModel, strict=True):
    """Generated text, or a piece of it."""

    text: str
    finish_reason: str | None = None
    token_ids: list[NonNegativeInt] | None = None


class _Usage(BaseModel, strict=True):
    prompt_tokens: NonNegativeInt | None = None
    completion_tokens: NonNegativeInt | None = None


class Piece(BaseModel, strict=True):
    """An event of a stream."""

    choices: list[Choice]


class Completion(BaseModel, strict=True):
    """The answer to one prompt."""

    choices: Annotated[list[Choice], Field(min_length=1, max_length=1)]
    usage: Annotated[_Usage, BeforeValidator(lambda given: given or {})] = _Usage()


class _Meta(BaseModel, strict=True):
    n_ctx_train: PositiveInt | None = None


class _Listed(BaseModel, strict=True):
    """A model as a server describes it; `meta` is llama.cpp's."""

    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: PositiveInt | None = None
    meta: _Meta | None = None


class _Listing(BaseModel, strict=True):
    data: list[_Listed]


@dataclass(frozen=True)
class ServedModel:
    """One model of a server."""

    url: str
    """URL up to and including `/v1`."""
    name: str
    """Name used by the server."""
    window: int | None = None
    """Number of tokens that it can hold; None: unknown."""
    root: str | None = None
    """Hub name or folder that the server loaded; None: unknown."""
    parent: str | None = None
    """Name of the base if it is an adapter."""
    weights: str | None = None
    """Hash of its weights if known: those sent by this process, or those in `root`."""

    @property
    def identity(self) -> str:
        """Identifier of the weights, as far as they are known."""
        return self.weights or f"served: {self.name} ({self.root}, {self.parent})"

    def describe(self) -> dict[str, str]:
        """Return server and model for a record."""
        known = {"server": mask_text(self.url), "served_model": self.name, "served_from": self.root}
        return {key: value for key, value in known.items() if value is not None}

    def post(self, path: str, body: Mapping[str, Any]) -> bytes:
        """Send one request to this model's server; see `send`."""
        return send("POST", f"{self.url}/{path}", _read_whole, json=body)

    def ask(self, body: Mapping[str, Any]) -> Completion:
        """Have one prompt answered.

        Raises:
            ServerError: The response is not a completion.
        """
        return read_as(Completion, self.post("completions", body), f"{self.name}: its answer is not a completion")

    def stream(self, body: Mapping[str, Any]) -> Iterator[Choice]:
        """Yield the answer to one prompt piece by piece.

        Raises:
            ServerError: The response is not an answer, or ends in the middle of it.
        """
        response = send("POST", f"{self.url}/completions", lambda response: response, json={**body, "stream": True})
        said = f"{self.name}: sent something that is not part of an answer"
        try:
            with response:  # closes the connection also if the caller stops reading
                for line in response.iter_lines():
                    if line.startswith(b"data: {"):
                        yield from read_as(Piece, line.removeprefix(b"data: "), said).choices
        except requests.RequestException as error:
            raise ServerError(f"{self.name}: connection lost during an answer ({type(error).__name__})") from None


def read_as(kind: type[Kind], body: bytes, otherwise: str, error: type[LoraNsError] = ServerError) -> Kind:
    """Parse a server's response as JSON of a kind, ignoring additional fields."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = "".join(f"{each}: " for each in [".".join(map(str, first["loc"]))] if each)
        shown = mask_text(body[:200].decode("utf-8", "replace"))
        raise error(f"{otherwise} ({place}{first['msg']}): {shown}") from None


def _read_whole(response: requests.Response, within_s: float | None = None) -> bytes:
    """Read a response within limits, since a server may send without end, or a byte at a time."""
    end, pieces, size = time.monotonic() + (within_s or _TIMEOUTS[1]), list[bytes](), 0
    # read1 returns what has arrived; iter_content would wait for a full piece, each byte restarting the timeout
    while piece := response.raw.read1(65536, decode_content=True):
        pieces.append(piece)
        size += len(piece)
        if size > _LARGEST:
            raise ServerError(f"{mask_text(response.url)}: sent more than {_LARGEST >> 20} MiB for one answer")
        if time.monotonic() > end:
            raise requests.ReadTimeout
    return b"".join(pieces)


def send(method: str, url: str, read: Callable[[requests.Response], T], **given: Any) -> T:
    """Send a request, retrying with increasing delays if the server is busy or the connection is lost.

    The key in the environment's LORA_NS_API_KEY is sent with it. Returns the result of `read` for the response.

    Raises:
        RefusedError: The server rejects the request.
        ServerError: There was no answer after several tries, or two timeouts.
    """
    key = os.environ.get(KEY_VARIABLE)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = given.pop("timeout", _TIMEOUTS)
    shown, tries, num_late = mask_text(url), 0, 0
    for tries, wait in enumerate((*_WAITS, None), 1):  # noqa: B007  read after the loop
        asked, response = 0.0, None
        try:
            response = requests.request(
                method, url, headers=headers, timeout=timeout, stream=True, allow_redirects=False, **given
            )  # a redirect would forward the key
            if response.ok and not response.is_redirect:
                return read(response)
            reason = f"{response.status_code} {_explain(_read_whole(response))}"
        except _LOST as error:
            is_refused = "refused" in str(error)  # by the machine: the port is closed
            reason = "no server listens there" if is_refused else f"the connection was lost ({type(error).__name__})"
            response, num_late = None, num_late + isinstance(error, _LATE)
        except requests.RequestException as error:
            raise UserError(f"--server {shown}: {mask_text(str(error))}") from None
        else:
            if response.status_code not in _BUSY:
                raise RefusedError(f"{shown}: the server refused a request: {reason}")
            asked = _read_wait(response)
        if wait is None or num_late > 1:
            break
        logger.info("%s: %s; trying again", shown, reason)
        time.sleep(max(wait, asked))
    kind = ServerError if response is None else BusyError
    raise kind(f"{shown}: no answer after {tries} tries: {reason}; what was answered is kept")


def open_server(url: str, name: str | None = None) -> ServedModel:
    """List a server's models, and select the one with a name, or the only one.

    Raises:
        UserError: There is no such server or model; a server that lists no models is trusted to have the name.
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
    names = [each.id for each in models]
    if name is None and len(names) != 1:
        raise UserError(f"--server {mask_text(url)} serves {', '.join(names) or 'no model'}; choose by --served_model")
    if name is not None and name not in names:
        raise UserError(f"--served_model {name}: the server has no such model; it serves {', '.join(names)}")
    found = models[0 if name is None else names.index(name)]
    window = found.max_model_len or (found.meta.n_ctx_train if found.meta else None)
    root = None if (found.root or "").startswith("~") else found.root  # a home folder of the server's machine
    return ServedModel(url, found.id, window, root, found.parent)


def list_models(url: str) -> list[_Listed]:
    """List a server's models as it describes them."""
    said = f"--server {mask_text(url)}: lists no models; give an address such as http://127.0.0.1:8000/v1"
    read = partial(_read_whole, within_s=_LISTING_TIMEOUTS[1])
    return read_as(_Listing, send("GET", f"{url}/models", read, timeout=_LISTING_TIMEOUTS), said, UserError).data


@contextmanager
def serving_adapter(url: str, name: str, folder: Path, weights: str) -> Iterator[ServedModel]:
    """Make a running vLLM load the adapter in a folder that it can read, and unload it afterwards.

    Raises:
        ServerError: It cannot, or was not started with support for it.
    """
    url = url.rstrip("/")
    base = open_server(url, next((each.id for each in list_models(url) if not each.parent), None))
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


def _explain(body: bytes) -> str:
    """Return the server's own message: OpenAI's error object, or the text."""
    try:
        said = parse_json(body)
    except NotJsonError:
        said = body.decode("utf-8", "replace")
    said = said.get("error", said) if isinstance(said, dict) else said
    if isinstance(said, dict):
        said = said.get("message") or json.dumps(said)
    return mask_text(" ".join(str(said).split())[:300])


def _read_wait(response: requests.Response) -> float:
    """Read the number of seconds the server asks to wait; dates, which are also allowed, are ignored."""
    asked = response.headers.get("Retry-After", "")
    return min(float(asked), _LONGEST_WAIT) if asked.isdecimal() else 0.0
