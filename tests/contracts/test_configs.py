"""Every shipped configuration, found by walking the folder: valid with the ML libraries blocked, and as documented."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.commands.without_ml import run_without_ml
from utils.config.sections.training import OwnTrainingSection
from utils.config.yaml_text import read_document
from utils.run_config import load_run_config
from utils.run_config.kinds import find_kind
from utils.run_config.reader import Header, list_sections
from utils.run_config.reference import build_schema
from utils.tasks.sft.section import OwnSftSection
from utils.tasks.task import all_tasks

ROOT = Path(__file__).parents[2]
FILES = sorted(path for path in (ROOT / "configs").rglob("*") if path.suffix in (".yaml", ".yml", ".json"))
FILES = [path for path in FILES if not path.name.startswith(".")]
RUNS = [path for path in FILES if find_kind(path) == "run"]
EMBEDDED = ROOT / "examples" / "quickstart" / "base"


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT / "configs"))


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    """Validate every file in one process with the ML libraries blocked."""
    requests = [["validate_config", ["--show", str(path.relative_to(ROOT))]] for path in FILES]
    requests.append(["validate_config", ["--all"]])
    return dict(zip([*map(name_of, FILES), "--all"], run_without_ml(requests), strict=True))


def test_every_file_is_checked(answers: dict[str, Any]) -> None:
    shipped = {"quickstart.yaml", "template.yaml", "glue_mrpc.yaml", "glue_cola_qwen.yaml", "glue_bert.yaml"}
    assert shipped <= {name_of(path) for path in RUNS}
    everything = [path for path in (ROOT / "configs").rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert len(FILES) >= len(everything)
    text = answers["--all"]["out"]
    assert all(f"configs/{name_of(path)} (" in text for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_each_file_is_valid(path: Path, answers: dict[str, Any]) -> None:
    answer = answers[name_of(path)]
    if "examples/quickstart" in path.read_text("utf-8") and not EMBEDDED.is_dir():
        pytest.skip("the embedded example has not been made here")
    assert answer["code"] == 0, answer["err"]
    assert "warning: " not in answer["err"]
    assert "note: " not in answer["err"]


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_each_resolved_file_reads_back_the_same(path: Path, tmp_path: Path) -> None:
    config = load_run_config(path, files=False)
    again = tmp_path / "run.yaml"
    again.write_text(config.to_yaml(), encoding="utf-8")
    assert load_run_config(again, files=False).fingerprint() == config.fingerprint()


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_each_file_matches_the_editor_schema(path: Path) -> None:
    validator = jsonschema.Draft202012Validator(build_schema())
    assert [error.message for error in validator.iter_errors(read_document(path).data)] == []


def test_the_stored_schema_is_up_to_date() -> None:
    """`python validate_config.py --schema > configs/.schema.json`; library fields follow the installed version."""
    stored = json.loads((ROOT / "configs" / ".schema.json").read_text("utf-8"))
    built = build_schema()
    for schema in (stored, built):
        for name in ("TrainingSection", "SftSection"):
            fields = schema["$defs"][name]["properties"]
            schema["$defs"][name] = {key: fields[key] for key in OwnTrainingSection.model_fields if key in fields}
    assert stored == built


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_each_file_has_its_own_output_folder(path: Path) -> None:
    config = load_run_config(path, files=False)
    assert config.training.output_dir == f"./outputs/{path.stem}"
    assert config.task_name == path.stem


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_each_file_starts_with_its_purpose_and_command(path: Path) -> None:
    head = re.match(r"(#.*\n)+", path.read_text("utf-8"))
    assert head is not None, "no opening comment"
    assert head[0].startswith("# yaml-language-server: $schema=")
    assert re.search(r"python (train|validate_config)\.py", head[0]) or "make quickstart" in head[0]
    assert "memory" in head[0].lower() or "GB" in head[0]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_each_file_holds_no_secret_and_no_local_path(path: Path) -> None:
    text = path.read_text("utf-8")
    assert not re.search(r"hf_[A-Za-z0-9]{10,}|/home/|/root/|[A-Z]:\\\\", text)


TEMPLATES = ("template.yaml", "template_sft.yaml")


def test_the_templates_name_every_key() -> None:
    """Keys of one task type are in its template, those of both at least in template.yaml."""
    written: dict[str, set[str]] = {}
    for name in TEMPLATES:
        for section, keys in read_document(ROOT / "configs" / name).data.items():
            written[section] = written.get(section, set()) | (set(keys) if isinstance(keys, dict) else set())
    asking = {str(task.SECTION): task for task in all_tasks().values() if not task.IS_DEFAULT}
    assert set(Header.model_fields) | set(list_sections()) - set(asking) == set(written)
    for section, task in asking.items():
        keys = read_document(ROOT / "configs" / f"template_{section}.yaml").data[section]
        assert set(task.sections()[section]().model_fields) == set(keys), section
    config, causal = (load_run_config(ROOT / "configs" / name, files=False) for name in TEMPLATES)
    for name in ("model", "peft", "dataset", "results"):
        hidden = {"task_type"} if name == "peft" else set()
        assert set(type(config.section_named(name)).model_fields) - hidden == written[name], name
    for name in ("generation", "evaluation"):
        assert set(type(getattr(causal, name)).model_fields) == written[name], name
    assert set(OwnTrainingSection.model_fields) <= written["training"]
    assert set(OwnSftSection.model_fields) == written["sft"]


@pytest.mark.parametrize("template", [*TEMPLATES, "template_dpo.yaml", "template_kto.yaml", "template_grpo.yaml"])
def test_a_template_shows_the_defaults(template: str) -> None:
    """Values in a template are the defaults, except for choices that make it run, which say so."""
    text = (ROOT / "configs" / template).read_text("utf-8")
    written = read_document(ROOT / "configs" / template).data
    config = load_run_config(ROOT / "configs" / template, files=False)
    chosen = {"path", "text_column", "label_names", "metrics", "max_length", "name_or_path"}
    chosen |= {"lora_r", "lora_alpha", "target_modules", "format", "prompt_template", "answer_column", "test_split"}
    for name in ("model", "peft", "dataset", "results", "sft", "dpo", "kto", "grpo", "generation", "evaluation"):
        section = config.section_named(name)
        for key, field in type(section).model_fields.items() if section is not None else ():
            if key in written.get(name, {}) and key not in chosen and not _states_default(text, key):
                default = field.get_default(call_default_factory=True)
                assert getattr(section, key) == default, f"{name}.{key}"


def _states_default(text: str, key: str) -> bool:
    return bool(re.search(rf"^  {key}: .*\(default: ", text, re.MULTILINE))
