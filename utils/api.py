"""lora-ns from Python: `from lora_ns import load_config, train, load_run`."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.config.run_config import RunConfig
from utils.config.yaml_text import dump_yaml
from utils.core.errors import UserError
from utils.core.logs import prepare_libraries, start_logs
from utils.core.project import ROOT
from utils.modeling.consent import NO_CONSENT, Consent
from utils.results.record import RunRecord, require_record
from utils.run_config import load_run_config
from utils.runs.hub import find_run_folder


@dataclass(frozen=True)
class Run:
    """A trained run."""

    folder: Path
    config: RunConfig
    record: RunRecord
    """Measurements: `metrics`, `interval`, `params`, `memory`, `time`, `status`; as in results.json."""
    consent: Consent = field(default=NO_CONSENT, repr=False)
    """Code that may run."""

    def predict(self, texts: Sequence[str | Mapping[str, Any]], **generation: Any) -> list[dict[str, Any]]:
        """Answer texts with the kept weights, as inference.py does.

        Args:
            texts: Sentences, or requests to a language model; for a task on two texts, those of one row. Or rows as in
            a file for inference.py: `{"messages": [...], "tools": [...]}`.
            **generation: For a language model: max_new_tokens, temperature, top_p, top_k, stop.

        Returns:
            A dict per row: `label` with `probabilities`, `value`, or `answer`; `error` if the row cannot be answered.

        Raises:
            DataError: No row can be answered.
        """
        kinds = {next((kind for kind in (str, Mapping) if isinstance(each, kind)), None) for each in texts}
        if isinstance(texts, (str, Mapping)) or len(kinds) != 1 or None in kinds:
            raise UserError('predict takes a list of texts, or of rows such as {"messages": [...]}')
        from utils.inference.request import ModelChoice, Request
        from utils.inference.session import answer_request

        prepare_libraries()
        choice = ModelChoice(run=str(self.folder), consent=self.consent)
        request = Request(choice, tuple(texts), generation=generation, as_json=True)
        request.check()
        answers: list[dict[str, Any]] = answer_request(request)["answers"]
        return answers


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a run's file, or a shipped one by its name: `load_config("quickstart", {"peft.lora_r": 16})`.

    Raises:
        ConfigError: The file has mistakes; the text lists each with file, line and what would be right.
    """
    return load_run_config(path, [f"{key}={dump_yaml(value).strip()}" for key, value in (overrides or {}).items()])


def train(config: RunConfig, *, resume: str | None = None, overwrite: bool = False) -> Run:
    """Train, score and export a run, and verify the export, as train.py does; return a finished run unchanged.

    Args:
        config: Configuration of the run, whose folder is `config.training.output_dir`.
        resume: `last`, or the name of a checkpoint.
        overwrite: Start over; an existing folder is renamed, not deleted.
    """
    from utils.runs.summary import announce_run

    started = time.monotonic()
    start_logs()
    prepare_libraries()
    announce_run(config)
    folder, record = _load_train_script().train(config, resume, overwrite, started)
    return Run(folder.path, config, record, Consent.of_config(config))


def load_run(folder: str | Path, **allowed: bool) -> Run:
    """Open a finished run by its folder, or by `hub:owner/name` for one on the hub.

    Args:
        folder: The folder or the name.
        **allowed: Code that may run, as by the options of inference.py: `allow_extensions=True` for the run's own
            plug-ins, trust_remote_code, allow_pickle, allow_hub_kernels.

    Raises:
        UserError: The folder is not a run's, or was never scored.
        ConfigError: The run has extensions, which are not allowed.
        ModelError: The hub has no such run, or cannot be reached.
    """
    consent, path = Consent(**allowed), find_run_folder(folder)
    record = require_record(path)
    config = load_run_config(path / "run.yaml", files=False, may_extend=consent.allow_extensions)
    return Run(path, config, record, consent)


def _load_train_script() -> Any:
    spec = importlib.util.spec_from_file_location("lora_ns_train", ROOT / "train.py")
    assert spec is not None, "a Python file has a loader"
    assert spec.loader is not None, "a Python file has a loader"
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script
