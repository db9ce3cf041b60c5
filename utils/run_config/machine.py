"""What a run's settings require of the machine: packages, a GPU, a compiler, a login; checked before loading anything.

validate_config.py warns of missing requirements, since a file may be for another machine; train.py refuses to run.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.installed import installed_version, is_installed, source_of
from utils.config.sections.model import is_local
from utils.core.cache_folder import hub_home
from utils.core.errors import ConfigError, Problem
from utils.modeling.quantization import missing_packages
from utils.modeling.source import find_folder, read_model_config
from utils.run_config.devices import Machine

if TYPE_CHECKING:
    from utils.config.run_config import RunConfig

_ON = ("1", "on", "yes", "true")
_WRITTEN = ("outputs", "merged")
"""Folders that commands write models to."""


Need = Callable[["RunConfig", Machine], str | None]
"""Returns what is missing and what to do about it, or None."""


def _package(module: str, install: str = "", at_least: str = "", distribution: str = "") -> Need:
    """Require an installed package.

    Args:
        module: Module to import.
        install: Arguments for pip; by default the module's name.
        at_least: Lowest version that transformers supports.
        distribution: Package that has to provide the module, if several do.
    """
    words = install or module.partition(".")[0].replace("_", "-")

    def check(*_: Any) -> str | None:
        if not is_installed(module) or (distribution and distribution not in _providers(module)):
            return f"needs a package that is not installed; run pip install {words}"
        found = installed_version(words) if at_least else None
        if found and _numbers(found) < _numbers(at_least):
            return f"needs {words} from version {at_least}, and {found} is installed; run pip install -U {words}"
        return None

    return check


def _any_of(*needs: Need) -> Need:
    def check(config: RunConfig, machine: Machine) -> str | None:
        said = [need(config, machine) for need in needs]
        return None if None in said else said[0]

    return check


def _all_of(*needs: Need) -> Need:
    return lambda config, machine: next((said for need in needs if (said := need(config, machine))), None)


def _variable(name: str, meaning: str) -> Need:
    return lambda *_: None if os.environ.get(name) else f"needs {name}, {meaning}, in the environment"


def _gpu(_: RunConfig, machine: Machine) -> str | None:
    return None if machine.gpu else "needs a GPU, and torch finds none here"


def _gpu_to_compute(config: RunConfig, machine: Machine) -> str | None:
    if machine.gpu and not config.arguments.get("use_cpu"):
        return None
    return "works on a GPU only, and this run would be on the CPU; leave it out"


def _bf16(config: RunConfig, machine: Machine) -> str | None:
    if machine.bf16 or config.arguments.get("use_cpu"):
        return None
    return "no GPU here computes in bfloat16; set it to false, or training.use_cpu: true to try the CPU"


def _tf32(_: RunConfig, machine: Machine) -> str | None:
    return None if machine.tf32 else "needs an NVIDIA GPU from Ampere, and torch finds none here; leave it out"


def _compiler(config: RunConfig, _: Machine) -> str | None:
    """Check for the compiler and headers that torch's inductor needs to build its kernels."""
    if (config.arguments.get("torch_compile_backend") or "inductor") != "inductor":
        return None
    if shutil.which(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")) is None:
        return "needs a C++ compiler, and there is none here; install g++, or leave it out"
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        return "needs Python's header files, which are not here; install python3-dev, or leave it out"
    return None


def _is_offline() -> bool:
    return any(os.environ.get(name, "").lower() in _ON for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def _hub(config: RunConfig, machine: Machine) -> str | None:
    if _is_offline():
        return "the hub cannot be reached: HF_HUB_OFFLINE is set; unset it, or set this to false"
    return _login(config, machine)


def _base_from_hub(config: RunConfig, machine: Machine) -> str | None:
    """Require a login if the base would be fetched: it is not a folder, and the network is not disabled."""
    return None if is_local(config.model.name_or_path) or _is_offline() else _login(config, machine)


def _base_made(config: RunConfig, _: Machine) -> str | None:
    """Require a base in a folder that commands write to, whose name could be one of the hub."""
    name = config.model.name_or_path
    if name.partition("/")[0] not in _WRITTEN or is_local(name) or find_folder(config.model) is not None:
        return None
    return f"there is no folder {name} yet; run the command that makes it first (comments in the file may name it)"


def _login(*_: Any) -> str | None:
    file = Path(os.environ.get("HF_TOKEN_PATH") or hub_home() / "token").expanduser()
    names = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    has_token = any(os.environ.get(name) for name in names) or file.is_file()
    return None if has_token else "needs a login to the hub; set HF_TOKEN or run `hf auth login`"


def _format(config: RunConfig, _: Machine) -> str | None:
    words = missing_packages(read_model_config(config.model) or {})
    return f"is stored in a format that needs more packages; run pip install {words}" if words else None


_BITSANDBYTES = _package("bitsandbytes", at_least="0.46.1")
_KERNELS = _package("kernels")

_NEEDS: tuple[tuple[str, str, Need], ...] = (
    ("training.report_to", "azure_ml", _package("azureml.core", "azureml-core")),
    ("training.report_to", "comet_ml", _package("comet_ml", "comet-ml")),
    ("training.report_to", "dagshub", _all_of(_package("dagshub"), _package("mlflow"))),
    ("training.report_to", "flyte", _package("flytekit")),
    ("training.report_to", "kubeflow", _variable("KUBEFLOW_TRAINER_SERVER_URL", "the address of its server")),
    ("training.report_to", "tensorboard", _any_of(_package("tensorboard"), _package("tensorboardX"))),
    *(
        ("training.report_to", name, _package(name))
        for name in ("clearml", "codecarbon", "dvclive", "mlflow", "neptune", "swanlab", "trackio", "wandb")
    ),
    ("results.formats", "png", _package("matplotlib")),
    ("training.optim", r"adamw_torch_[48]bit", _package("torchao", at_least="0.15.0")),
    ("training.optim", r"adamw_torch_xla", _package("torch_xla")),
    ("training.optim", r"adamw_torch_npu_fused", _package("torch_npu")),
    ("training.optim", r"adamw_anyprecision", _package("torchdistx")),
    ("training.optim", r"galore_.*", _package("galore_torch")),
    ("training.optim", r"galore_.*8bit.*", _BITSANDBYTES),
    ("training.optim", r"apollo_.*", _package("apollo_torch")),
    ("training.optim", r"(ada)?lomo", _package("lomo_optim")),
    ("training.optim", r"grokadamw", _package("grokadamw")),
    ("training.optim", r"schedule_free_.*", _package("schedulefree", at_least="1.2.6")),
    ("training.optim", r"schedule_free_radam", _package("schedulefree", at_least="1.4.0")),
    ("training.optim", r"stable_adamw", _package("optimi", "torch-optimi")),
    ("training.optim", r"paged_.*|(adamw|ademamix|lion|rmsprop)_(bnb|8bit|32bit).*|ademamix", _BITSANDBYTES),
    ("training.use_liger_kernel", "true", _package("liger_kernel", at_least="0.3.0")),
    ("training.deepspeed", ".+", _package("deepspeed")),
    ("training.fsdp", ".+", _gpu),
    ("training.bf16", "true", _bf16),
    ("training.bf16_full_eval", "true", _bf16),
    ("training.tf32", "true", _tf32),
    ("training.ddp_backend", "nccl", _gpu),
    ("training.torch_compile", "true", _compiler),
    ("sft.activation_offloading", "true", _gpu_to_compute),
    ("training.push_to_hub", "true", _hub),
    ("model.token", "true", _base_from_hub),
    ("model.quantization", ".+", _BITSANDBYTES),
    ("model.name_or_path", ".+", _format),
    ("model.name_or_path", ".+", _base_made),
    ("model.attn_implementation", "flash_attention_.|flex_attention", _gpu_to_compute),
    ("model.attn_implementation", "flash_attention_2",
     _any_of(_package("flash_attn", "flash-attn", distribution="flash-attn"), _KERNELS)),
    ("model.attn_implementation", "flash_attention_3",
     _any_of(_package("flash_attn_interface", "flash-attn-3", distribution="flash-attn-3"), _KERNELS)),
    ("model.attn_implementation", "flash_attention_4",
     _any_of(_package("flash_attn", "flash-attn-4", distribution="flash-attn-4"), _KERNELS)),
    ("model.attn_implementation", ".+/.+", _KERNELS),
)  # fmt: skip
"""Requirements by setting and value, a regular expression."""
_KEYS = frozenset(key for key, _, _ in _NEEDS)


def find_unmet(config: RunConfig, machine: Machine) -> list[tuple[str, str]]:
    """Return the requirements of the configuration that the machine does not meet, as pairs of key and sentence."""
    found: dict[tuple[str, str], None] = {}
    values = {key: [*_values(config, key)] for key in _KEYS}
    for key, pattern, need in _NEEDS:
        for value in values[key]:
            if re.fullmatch(pattern, value) and (problem := need(config, machine)):
                found[key, problem if value == "true" or pattern == ".+" else f"{value} {problem}"] = None
    return list(found)


def require_machine(config: RunConfig) -> None:
    """Reject a run that this machine cannot do, before its data is read.

    Raises:
        ConfigError: With everything that is missing.
    """
    problems = [
        Problem(message, key, config.place_of(key), "unsupported")
        for key, message in find_unmet(config, Machine.look())
    ]
    if problems:
        raise ConfigError(problems)


@cache
def tracker_names() -> tuple[str, ...]:
    """Return the trackers that the installed transformers supports, read from its source."""
    source = source_of("transformers.integrations.integration_utils").read_text("utf-8")
    found = re.search(r"^INTEGRATION_TO_CALLBACK = \{(.*?)^\}", source, re.MULTILINE | re.DOTALL)
    return tuple(re.findall(r'^\s+"(\w+)":', found[1], re.MULTILINE)) if found else ()


def _values(config: RunConfig, key: str) -> Iterator[str]:
    section, _, name = key.partition(".")
    value = config.arguments.get(name) if section == "training" else getattr(config.section_named(section), name, None)
    for each in value if isinstance(value, list) else [value]:
        if each not in (None, False, ""):
            yield "true" if each is True else str(each)


@cache
def _providers(module: str) -> tuple[str, ...]:
    from importlib.metadata import packages_distributions

    return tuple(name.replace("_", "-") for name in packages_distributions().get(module, ()))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
