"""QST is registered with peft only when needed, and only with the versions of peft it was tested with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from utils.adapters.qst import config, register_qst
from utils.core.errors import ModelError

ROOT = Path(__file__).parents[4]


def _run(code):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_reading_the_section_imports_neither_torch_nor_peft():
    code = (
        "import sys; from utils.adapters import qst; qst.Config(reduction_factor=8); "
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    )
    assert _run(code).strip() == "[]"


@pytest.mark.slow
def test_accessing_the_class_registers_it_with_peft():
    code = (
        "from utils.adapters.qst import QSTConfig, QSTModel\n"
        "import json, pickle, peft, copy\n"
        "from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING as tuners\n"
        "member = peft.PeftType('QST')\n"
        "assert member is peft.PeftType.QST and member in list(peft.PeftType) and member == 'QST'\n"
        "assert pickle.loads(pickle.dumps(member)) is member and copy.deepcopy(member) is member\n"
        "assert tuners[member] is QSTModel and QSTModel.prefix == 'qst_'\n"
        "assert peft.PeftType('LORA') is peft.PeftType.LORA\n"
        "found = peft.get_peft_config({'peft_type': 'QST', 'task_type': 'SEQ_CLS', 'reduction_factor': 4})\n"
        "print(json.dumps([type(found).__name__, found.reduction_factor]))"
    )
    assert _run(code).strip() == '["QSTConfig", 4]'


def test_a_second_registration_changes_nothing():
    from peft.utils import PeftType

    register_qst()
    before = list(PeftType)
    register_qst()
    assert list(PeftType) == before
    assert before.count("QST") == 1


@pytest.mark.parametrize("version", ["0.20.0", "0.22.0", "0.22.0.dev0", "1.0.0", "0.9.1"])
def test_an_untested_peft_is_refused(version):
    message = rf"needs peft >= 0.21, < 0.22, and {version} is installed.*pip install"
    with pytest.raises(ModelError, match=message) as told:
        config._require_tested(version)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("version", ["0.21.0", "0.21.2", "0.21.2.post1", "0.21rc1"])
def test_a_tested_peft_is_accepted(version):
    config._require_tested(version)


def test_the_config_survives_saving_and_loading(tmp_path):
    from peft import PeftType

    from utils.adapters.qst import QSTConfig

    written = QSTConfig(task_type="SEQ_CLS", side_layers=[0, 2], gate="vector", side_head_dim=8, layers_path="a.b")
    written.save_pretrained(tmp_path)
    again = QSTConfig.from_pretrained(tmp_path)
    assert again.to_dict() == written.to_dict()
    assert again.peft_type is PeftType.QST


def test_an_unknown_name_of_the_module_is_an_attribute_error():
    from utils.adapters import qst

    with pytest.raises(AttributeError, match="QSTLayer"):
        _ = qst.QSTLayer


def test_yaml_fields_are_fields_of_the_adapter_with_the_same_defaults():
    import dataclasses

    from utils.adapters.qst import Config, QSTConfig

    ours = {name: field.default for name, field in Config.model_fields.items()}
    theirs = {field.name: field.default for field in dataclasses.fields(QSTConfig)}
    shared = {name for name in ours if name in theirs} - {"task_type"}
    assert set(ours) - shared <= {"method", "task_type", "cache", "adapter_path", "init_seed"}
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"side_layers": "every_0"}, "write all, every_2"),
        ({"side_layers": "half"}, "write all, every_2"),
        ({"side_layers": []}, "is empty"),
        ({"reduction_factor": 0}, "greater than or equal to 1"),
        ({"side_dropout": 1.0}, "less than 1"),
        ({"mix": "sum"}, "'residual', 'paper' or 'sigmoid'"),
        ({"lora_r": 8}, "lora_r"),
    ],
)
def test_mistakes_in_the_section(keys, message):
    from pydantic import ValidationError

    from utils.adapters.qst import Config

    with pytest.raises(ValidationError, match=message):
        Config(**keys)


def test_keys_without_effect_are_warned_about():
    from utils.adapters.qst import Config

    assert Config(downsample="avgpool", downsample_rank=8).find_conflicts() == {
        "downsample_rank": "downsample: avgpool has no inner width; use adapter or lora"
    }
    assert not Config(downsample="avgpool").find_conflicts()
    assert not Config(**Config(downsample="avgpool").model_dump()).find_conflicts(), "as written in a run's run.yaml"
    assert not Config(downsample="lora", downsample_rank=8).find_conflicts()
