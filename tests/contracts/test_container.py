"""docker/ and the workflow refer only to existing files, and the image gets everything the wheel is built from."""

from __future__ import annotations

import re
import runpy
import shlex
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import tomllib
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text("utf-8")
PACKAGE = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
JOBS = yaml.safe_load((ROOT / ".github" / "workflows" / "check.yml").read_text("utf-8"))["jobs"]
RUNS = [(job, step["run"]) for job, content in JOBS.items() for step in content["steps"] if "run" in step]


def _is_sent(path: str) -> bool:
    """Return whether a path is sent to the builder, by the last .dockerignore line that matches it or a parent."""
    sent = True
    parents = [path, *map(str, Path(path).parents)]
    for line in (ROOT / "docker" / "Dockerfile.dockerignore").read_text("utf-8").splitlines():
        pattern = line.removeprefix("!")
        if not line.startswith("#") and any(fnmatchcase(each, pattern) for each in parents[:-1]):
            sent = line.startswith("!")
    return sent


def test_the_image_gets_what_the_wheel_is_built_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("setuptools.setup", lambda **_: None)
    shipped = runpy.run_path(str(ROOT / "setup.py"))["SHIPPED"]
    needed = [*shipped, "setup.py", "pyproject.toml", "constraints.txt", "LICENSE", "utils/core/project.py"]
    assert [path for path in needed if not _is_sent(path)] == []
    assert [path for path in ("tests", ".git", ".venv", "outputs", "docs/pictures") if _is_sent(path)] == []


def test_the_dockerfile_refers_to_existing_files() -> None:
    for sources in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.M):
        assert all((ROOT / source).exists() for source in sources.split())
    extras = {name for named in re.findall(r"'\.\[([\w,]+)\]'", DOCKERFILE) for name in named.split(",")}
    assert extras
    assert extras <= set(PACKAGE["optional-dependencies"])
    assert {*re.findall(r'^ENTRYPOINT \["(.*)"\]$', DOCKERFILE, re.M)} == set(PACKAGE["scripts"])
    assert {*re.findall(r"--target (\w+)", DOCKERFILE)} == {*re.findall(r"^FROM base AS (\w+)$", DOCKERFILE, re.M)}
    instructions = {line.split()[0] for line in DOCKERFILE.splitlines() if line and not line.startswith(("#", " "))}
    assert instructions <= {"ARG", "FROM", "RUN", "ENV", "WORKDIR", "COPY", "USER", "ENTRYPOINT", "CMD"}


def test_the_workflow_runs_existing_targets() -> None:
    for job, line in RUNS:
        choices: dict[str, list[Any]] = JOBS[job].get("strategy", {}).get("matrix", {})
        for name, values in choices.items():
            line = line.replace(f"${{{{ matrix.{name} }}}}", str(values[0]))
        words = shlex.split(line)
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text("utf-8"), re.M), line
        for word in words:
            is_file = re.fullmatch(r"(tests|docs|docker)/\S+|\S+\.txt", word)
            assert not is_file or (ROOT / word).is_file(), line
        for test in choices.get("test", []):
            assert (ROOT / "tests" / "commands" / test).is_file(), test
