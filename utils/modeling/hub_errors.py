"""Turns errors that the hub and transformers raise while loading into one sentence that says what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from utils.config.sections.model import ModelSection, is_local
from utils.core.errors import LoraNsError, ModelError
from utils.core.library_errors import describe, is_of_library

LOGIN = "run `hf auth login` or set HF_TOKEN"
"""Advice for a missing login."""

# transformers raises plain OSError and ValueError for these; only the message distinguishes them.
_BY_MESSAGE = (
    (
        "does not recognize this architecture",
        "{name} has an architecture that transformers {version} does not know; install a newer transformers, "
        "or, if the checkpoint ships its own code and you trust it, set model.trust_remote_code: true (or give "
        "--trust_remote_code)",
    ),
    (
        "contains custom code",
        "{name} needs Python code that it ships; read that code, then set model.trust_remote_code: true (or give "
        "--trust_remote_code)",
    ),
    (
        "Should have a `model_type`",
        "{name} has no config.json with a model_type, so it is not a transformers checkpoint (an adapter has "
        "none either: name its base model)",
    ),
    (
        "Unrecognized configuration class",
        "{name} has no class for this task in transformers {version}; choose another model",
    ),
    (
        "backend tokenizer",
        "{name} holds no usable tokenizer (tokenizer.json, tokenizer.model or vocab files); save one beside "
        "the model with tokenizer.save_pretrained",
    ),
    (
        "load tokenizer",
        "{name} holds no usable tokenizer; save one beside the model with tokenizer.save_pretrained",
    ),
    (
        ".safetensors",
        "{name} holds no safetensors weights, and pickled ones (pytorch_model.bin) are not loaded because "
        "they can run code; convert them once with AutoModel.from_pretrained(..., use_safetensors=False)"
        ".save_pretrained(FOLDER) and name that folder, or, if you trust their author, set model.allow_pickle: true "
        "(or give --allow_pickle)",
    ),
    ("config.json", "{name} holds no config.json, so it is not a transformers checkpoint"),
)


@contextmanager
def explain_loading(section: ModelSection) -> Iterator[None]:
    """Translate errors of the libraries while loading; our own errors pass through.

    Raises:
        ModelError: One sentence, chained to the library's error.
    """
    try:
        yield
    except Exception as error:  # libraries raise many kinds of errors for damaged files
        if not is_of_library(error):
            raise
        sentence = _hub_sentence(section, error) or _checkpoint_sentence(section, error)
        raise ModelError(sentence) from error


@contextmanager
def explain_hub(name: str, revision: str | None, *, error: type[LoraNsError], writes: bool = False) -> Iterator[None]:
    """Translate the hub's errors about a repository, or a missing answer.

    `writes` says that the repository is to be written to, which changes the advice on missing permissions.

    Raises:
        LoraNsError: One sentence, in the given class.
    """
    try:
        yield
    except Exception as caught:  # what a server that is no hub, or a broken one, sends leads to any kind
        if isinstance(caught, LoraNsError):
            raise
        login = f"is the token allowed to write to it? {LOGIN} to one that is" if writes else LOGIN
        sentence = _explain_answer(_Wanted(name, revision, login), caught)
        if sentence is None and not is_of_library(caught):
            raise
        raise error(sentence or _strange(name, caught)) from caught


@dataclass(frozen=True)
class _Wanted:
    """A request to the hub, with texts for its error messages."""

    name: str
    revision: str | None = None
    login: str = LOGIN
    """Advice if the hub denies access."""
    asked: str = ""
    """Why a login is needed, if a setting asked for it."""
    missing: str = "that you may read"
    """Where else the name was looked for."""
    instead: str = ""
    """Alternative to naming a hub repository."""


def _hub_sentence(section: ModelSection, error: BaseException) -> str | None:
    """Explain the hub's error about a model, or a missing answer."""
    if is_local(section.name_or_path):
        return None
    login = f"{LOGIN}, and leave model.token unset or true"
    instead = ", or give a local folder as model.name_or_path"
    asked, missing = "model.token is true but ", "that you may read, and there is no such folder here"
    return _explain_answer(_Wanted(section.name_or_path, section.revision, login, asked, missing, instead), error)


def _explain_answer(wanted: _Wanted, error: BaseException) -> str | None:
    from huggingface_hub import errors

    name, login, page = wanted.name, wanted.login, f"its page on the hub ({_endpoint()}/{wanted.name})"
    sentences: tuple[tuple[type[BaseException], str], ...] = (
        (errors.LocalTokenNotFoundError, f"{wanted.asked}there is no login; {login}"),
        (errors.GatedRepoError, f"{name} is gated: accept its licence on {page}, then {login}"),
        (errors.RevisionNotFoundError, f"{name} has no revision {wanted.revision}; choose one listed on {page}"),
        (
            errors.RepositoryNotFoundError,
            f"the hub has no model {name} {wanted.missing}; check the spelling, or, if it is private, {login}",
        ),
        (
            errors.HFValidationError,
            f"{name} is neither an existing folder nor a hub name (owner/name); check the spelling",
        ),
    )
    chain = list(_chain(error))
    for kind, sentence in sentences:
        if any(isinstance(each, kind) for each in chain):
            return sentence
    return _http_sentence(wanted, chain)


def _http_sentence(wanted: _Wanted, chain: list[BaseException]) -> str | None:
    from huggingface_hub import errors

    sentence = None
    for each in chain:
        if isinstance(
            each, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError | errors.RevisionResolutionError
        ):
            sentence = _absent(wanted)  # unless the hub's answer is behind it
        elif isinstance(each, errors.EntryNotFoundError):
            return None
        elif isinstance(each, errors.HfHubHTTPError):
            status = each.response.status_code
            remedy = wanted.login if status in (401, 403) else "try again later, or name a mirror in HF_ENDPOINT"
            return f"the hub answered {status} for {wanted.name}; {remedy}"
        elif isinstance(each, errors.HTTPError):
            return _absent(wanted)
    return sentence


def _strange(name: str, error: Exception) -> str:
    return (
        f"the hub ({_endpoint()}) sent something unexpected for {name} ({describe(error)}); check that the address is "
        "a hub's, with no login page in between, or try again later"
    )


def _absent(wanted: _Wanted) -> str:
    from huggingface_hub.constants import is_offline_mode

    name = wanted.name
    at = f" at revision {wanted.revision}" if wanted.revision else ""
    if is_offline_mode():
        return f"{name}{at} is not in the local cache and HF_HUB_OFFLINE forbids to fetch it; unset it{wanted.instead}"
    return (
        f"{name}{at} is not in the local cache and the hub ({_endpoint()}) cannot be reached; check the "
        f"network, name a mirror in HF_ENDPOINT{wanted.instead}"
    )


def _checkpoint_sentence(section: ModelSection, error: BaseException) -> str:
    """Explain what is wrong with the files themselves."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import __version__

    name = section.name_or_path
    first_line = str(error).strip().split("\n")[0]
    chain = list(_chain(error))
    if any(isinstance(each, json.JSONDecodeError | UnicodeDecodeError | RecursionError) for each in chain):
        return f"{name} holds a file that is not JSON ({first_line}); copy or download it again"
    if isinstance(error, StrictDataclassError):
        return f"the config.json of {name} is not valid: {' '.join(str(error).split())}"
    if isinstance(error, SafetensorError):
        remedy = "copy" if is_local(name) else "delete it from the cache and download"
        return f"a weight file of {name} is damaged ({first_line}); {remedy} it again"
    if isinstance(error, ImportError):
        return f"loading {name} needs something that is not installed: {first_line}"
    for fragment, sentence in _BY_MESSAGE:
        if fragment in str(error):
            return sentence.format(name=name, version=__version__)
    return f"{name} cannot be loaded ({describe(error)}); is one of its files cut off or edited? Copy it again"


def _chain(error: BaseException) -> Iterator[BaseException]:
    each: BaseException | None = error
    while each is not None:
        yield each
        each = each.__cause__ or each.__context__


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
