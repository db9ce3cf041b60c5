"""Whether two names mean the same base model: an adapter is right on the base that it was trained on."""

from __future__ import annotations

import logging
from pathlib import Path

from utils.config.sections.model import ModelSection, is_local
from utils.core.errors import UserError
from utils.modeling.local_files import read_model_config
from utils.modeling.quantized_checkpoint import read_format

logger = logging.getLogger(__name__)


def require_same_base(recorded: str, where: str, given: ModelSection, file: str) -> None:
    """See to it that a user names the base that was recorded, or that it cannot be told or taken.

    Args:
        recorded: The base that an adapter was trained on.
        where: What says so.
        given: The base that the user names.
        file: Where.

    Raises:
        UserError: It is another one, and the recorded one is on this machine.
    """
    if is_same_base(recorded, given.name_or_path):
        return
    config = read_model_config(ModelSection(name_or_path=recorded))
    name = given.name_or_path
    if config is None:
        logger.warning("%s names the base %s, which is not here; %s of %s is taken for it", where, recorded, name, file)
        return
    if (stored := read_format(config)) and not read_format(read_model_config(given) or {}):
        logger.warning("%s names the base %s, stored as %s; %s of %s is taken for what it was made from",
                       where, recorded, stored, name, file)  # fmt: skip
        return
    raise UserError(
        f"{where} names the base {recorded}, and {file} names {name}: an adapter is right on the base that it was "
        f"trained on; set model.name_or_path: {recorded}"
    )


def is_same_base(one: str, other: str) -> bool:
    """Tell whether two names mean one base: equal, one folder, or a hub name and its folder in the hub's cache."""
    if one == other:
        return True
    paths = [Path(each).expanduser().resolve() for each in (one, other)]
    if is_local(one) and is_local(other):
        return paths[0] == paths[1]
    pairs = ((one, paths[1]), (other, paths[0]))
    return any(f"models--{name.replace('/', '--')}" in path.parts for name, path in pairs)
