"""Makes peft know the method QST: `get_peft_model`, `PeftModel.from_pretrained` and TRL then take it as any other."""

from __future__ import annotations

from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import register_peft_method

from utils.adapters.qst.peft_type import add_peft_type


def register_qst() -> None:
    """Register the method; a second call changes nothing.

    Raises:
        ModelError: The installed peft is one that this was not tested with.
    """
    if add_peft_type() in PEFT_TYPE_TO_TUNER_MAPPING:
        return
    # Only now: the model reaches into peft, and an untested peft may lack what it reaches for.
    from utils.adapters.qst.config import QSTConfig
    from utils.adapters.qst.model import QSTModel

    register_peft_method(name="qst", config_cls=QSTConfig, model_cls=QSTModel, prefix=QSTModel.prefix)
