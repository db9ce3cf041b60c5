"""Telemetry is off before a library is imported, unless the user decided otherwise; log lines hide secrets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.core.errors import UserError
from utils.core.logs import TELEMETRY_SWITCHES, require_ranks

ROOT = Path(__file__).parents[3]
SCRIPT = """
import json, os
from utils.core.logs import TELEMETRY_SWITCHES, prepare_libraries, start_logs
start_logs()
prepare_libraries()
import logging
logging.getLogger("utils.x").warning("the hub at https://me:secret@example.org refused %s", os.environ["HF_TOKEN"])
from huggingface_hub import constants
switches = {name: os.environ.get(name) for name in TELEMETRY_SWITCHES}
print(json.dumps([constants.HF_HUB_DISABLE_TELEMETRY, switches]))
"""


def _ask(**settings: str) -> tuple[bool, dict[str, str | None], str]:
    environment = {name: value for name, value in os.environ.items() if name not in TELEMETRY_SWITCHES}
    environment |= {"HF_TOKEN": "a-token-of-any-look", **settings}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    is_off, switches = json.loads(done.stdout)
    return is_off, switches, done.stderr


def test_telemetry_is_off_and_logs_hide_secrets() -> None:
    is_off, switches, said = _ask()
    assert is_off
    assert set(switches.values()) == {"1"}
    assert said == "warning: the hub at https://***@example.org refused ***\n"


@pytest.mark.parametrize("name", TELEMETRY_SWITCHES)
def test_the_users_telemetry_choice_is_kept(name: str) -> None:
    is_off, switches, _ = _ask(**{name: "0"})
    assert not is_off
    assert switches == {each: "0" if each == name else None for each in TELEMETRY_SWITCHES}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("RANK=", "RANK is '', no whole number"),
        ("RANK=00", "RANK is '00'"),
        ("LOCAL_RANK=-1", "LOCAL_RANK is '-1'"),
        ("RANK=1", "RANK is 1 of 1 processes"),
        ("WORLD_SIZE=2 RANK=0", "WORLD_SIZE is 2, and LOCAL_RANK is not set"),
        ("WORLD_SIZE=0", "RANK is 0 of 0"),
        ("WORLD_SIZE=4 RANK=3 LOCAL_RANK=3 LOCAL_WORLD_SIZE=2", "LOCAL_RANK is 3 of 2 processes"),
        ("WORLD_SIZE=2 RANK=0 LOCAL_RANK=0 MASTER_PORT=99999", "MASTER_PORT is 99999, no port"),
        ("", None),
        ("WORLD_SIZE=4 RANK=3 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 MASTER_PORT=29500", None),
    ],
)
def test_inconsistent_launcher_variables_are_refused(
    given: str, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that takes itself for a second rank would silently write nothing."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for each in given.split():
        monkeypatch.setenv(*each.split("="))
    if said is None:
        require_ranks()
        return
    with pytest.raises(UserError) as refused:
        require_ranks()
    assert said in str(refused.value)
