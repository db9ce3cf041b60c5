"""The tokenizer's pad token, new tokens and chat template."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from conftest_modeling import build_tokenizer

from utils.errors import ModelError
from utils.modeling.section import ModelSection
from utils.modeling.tokenizer import added_token_ids, load_tokenizer

REAL_TOKENIZERS = Path(os.environ.get("LORA_NS_REAL_DATA", "../shared/data")) / "tokenizers"
