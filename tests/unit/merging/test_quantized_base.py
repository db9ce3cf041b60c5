"""A base stored quantized has no unquantized weights to merge into."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from utils.core.errors import UserError
from utils.modeling.quantization import load_model_config
from utils.runs.model_ref import TrainedModel


def test_merging_into_quantized_files_is_refused_before_loading(make_config, tmp_path):
    config = make_config("llama")
    file = tmp_path / "packed" / "config.json"
    file.parent.mkdir()
    packed = {**load_model_config(config.model), "quantization_config": {"quant_method": "gptq", "bits": 4}}
    file.write_text(json.dumps(packed))
    model = config.model.model_copy(update={"name_or_path": str(file.parent)})
    source = TrainedModel(tmp_path, replace(config, model=model), ("a", "b"), "outputs/run")
    with pytest.raises(UserError, match=r"its base .*packed is stored as gptq, so there is no unquantized base"):
        source.load_unquantized(None, "auto")
