"""QSTModel: adds a side network to a model, keeping the backbone frozen and in evaluation mode."""

from __future__ import annotations

import logging
import re
from dataclasses import asdict
from inspect import signature
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from utils.adapters.qst.backbone import Backbone, Recorder, find_backbone, inspect_block
from utils.adapters.qst.cache.replay import OpenStore, Replay
from utils.adapters.qst.config import QSTConfig, choose_side_layers
from utils.adapters.qst.side_net import QSTMix, SideNetwork

logger = logging.getLogger(__name__)


class QSTModel(BaseTuner):
    """A model with side networks, as peft wraps it.

    Source: Zhang et al. 2024, arXiv:2401.07159.
    """

    prefix: str = "qst_"
    tuner_layer_cls = QSTMix
    target_module_mapping: dict[str, Any] = {}

    @property
    def backbone(self) -> Backbone:
        """Locations of modules in the model."""
        found: Backbone = self.__dict__["_backbone"]
        return found

    @property
    def mix(self) -> QSTMix:
        """The module where side networks join."""
        found = self.model.get_submodule(self.backbone.mix_path)
        assert isinstance(found, QSTMix), "injected there"
        return found

    def train(self, mode: bool = True) -> QSTModel:
        """Set side networks and new heads to training mode; the backbone stays in evaluation mode, without dropout."""
        super().train(mode)
        self.model.base_model.eval()
        self.mix.qst_side.train(mode)
        return self

    def start_replay(self, open_store: OpenStore) -> Replay:
        """Cache the backbone's states of every document from now on, and skip its layers for cached documents.

        The backbone is frozen and in evaluation mode, so its states never change. Forward passes with a KV cache are
        not affected. The store is opened at the first batch, by number of states, hidden size and dtype.
        """
        self.stop_replay()
        layers: Any = self.model.get_submodule(self.backbone.layers_path)
        self.__dict__["_replay"] = replay = Replay(self.model, self.mix, layers, open_store)
        return replay

    def report_training(self) -> dict[str, Any]:
        """Report how much of the backbone's work the cache saved; empty without a cache."""
        replay: Replay | None = self.__dict__.get("_replay")
        if replay is None or replay.store is None:
            return {}
        facts = {**asdict(replay.counts), "num_rows": replay.store.num_rows, "num_bytes": replay.store.num_bytes}
        logger.info(
            "the backbone was skipped for %s of %s tokens; its cache holds %s rows, %.1f GB",
            f"{facts['num_tokens_replayed']:,}", f"{facts['num_tokens']:,}", f"{facts['num_rows']:,}",
            facts["num_bytes"] / 2**30,
        )  # fmt: skip
        return {"backbone_cache": facts}

    def stop_replay(self) -> None:
        """Close the store, if there is one."""
        if (replay := self.__dict__.pop("_replay", None)) is not None:
            replay.close()

    def unload(self) -> nn.Module:
        """Return the plain model."""
        self.stop_replay()
        recorder = self.mix.recorder
        plain: nn.Module = super().unload()
        recorder.remove()
        self.__dict__.pop("_sparing").remove()
        return plain

    def _prepare_adapter_config(self, peft_config: QSTConfig, model_config: dict[str, Any]) -> QSTConfig:
        if "_backbone" not in self.__dict__:
            self.__dict__["_backbone"] = find_backbone(self.model, peft_config.layers_path)
        peft_config.target_modules = re.escape(self.backbone.mix_path)
        return peft_config

    def _create_and_replace(
        self,
        peft_config: QSTConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
    ) -> None:
        if isinstance(target, QSTMix):
            mix = target
            if "_replay" in self.__dict__:  # the cache holds only the states that earlier side networks read
                logger.warning("the backbone cache is closed: another side network was added to the model")
                self.stop_replay()
        else:
            layers: Any = self.model.get_submodule(self.backbone.layers_path)
            mix = QSTMix(target, Recorder(list(layers)), self.backbone.ends_with_layer)
        mix.add_side(adapter_name, self._build_side(peft_config, mix), peft_config.inference_mode)
        if adapter_name not in self.active_adapters:
            mix.qst_side[adapter_name].requires_grad_(False)
        if mix is not target:
            setattr(parent, target_name, mix)
            self.__dict__["_sparing"] = self.model.register_forward_pre_hook(_spare_cache, with_kwargs=True)

    def _build_side(self, peft_config: QSTConfig, mix: QSTMix) -> SideNetwork:
        layers: Any = self.model.get_submodule(self.backbone.layers_path)
        first = mix.get_base_layer() if layers[0] is mix else layers[0]
        kind = inspect_block(self.model, first)
        chosen = choose_side_layers(peft_config.side_layers, self.backbone.num_layers)
        return SideNetwork(peft_config, kind, chosen, self.backbone.num_layers, self.model.config.get_text_config())

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """Restore the base layer; peft's own method expects layers with a weight."""
        setattr(parent, child_name, new_module)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """Remove the adapter's name from a parameter's key; peft's own method expects adapters nested one level."""
        return key.replace(f".qst_side.{adapter_name}.", ".qst_side.", 1)

    def _check_merge_allowed(self) -> None:
        raise ValueError(
            "a side network cannot be merged: it computes beside the base and changes none of its weights; use the "
            "adapter on its base"
        )


def _spare_cache(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Keep a model in training from filling a KV cache that is never read."""
    fills = kwargs.get("use_cache") is None and kwargs.get("past_key_values") is None
    if fills and torch.is_grad_enabled() and "use_cache" in signature(type(model).forward).parameters:
        return args, {**kwargs, "use_cache": False}
    return None
