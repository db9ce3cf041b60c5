"""The hub's cache folders are where huggingface_hub itself looks for them."""

from __future__ import annotations

import runpy

import pytest

from utils.core.cache_folder import hub_cache, hub_home

NAMES = ("HF_HOME", "XDG_CACHE_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"XDG_CACHE_HOME": "/scratch/cache"},
        {"XDG_CACHE_HOME": "/scratch/cache", "HF_HOME": "~/hub_home"},
        {"HF_HOME": "$HOME/there"},
        {"HF_HOME": "/scratch/home", "HUGGINGFACE_HUB_CACHE": "/scratch/older"},
        {"HUGGINGFACE_HUB_CACHE": "/scratch/older", "HF_HUB_CACHE": "$HOME/newer"},
    ],
)
def test_the_folders_equal_the_librarys(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    library = runpy.run_module("huggingface_hub.constants")
    assert str(hub_home()) == library["HF_HOME"]
    assert str(hub_cache()) == library["HF_HUB_CACHE"]
