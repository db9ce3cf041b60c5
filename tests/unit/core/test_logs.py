"""Telemetry is off before a library is imported, unless the user has decided; log lines hide secrets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.core.logs import TELEMETRY_SWITCHES

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


def test_telemetry_is_off_and_no_line_holds_a_secret() -> None:
    is_off, switches, said = _ask()
    assert is_off
    assert set(switches.values()) == {"1"}
    assert said == "warning: the hub at https://***@example.org refused ***\n"


@pytest.mark.parametrize("name", TELEMETRY_SWITCHES)
def test_the_users_choice_stays(name: str) -> None:
    is_off, switches, _ = _ask(**{name: "0"})
    assert not is_off
    assert switches == {each: "0" if each == name else None for each in TELEMETRY_SWITCHES}
