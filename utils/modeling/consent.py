"""Whether code in a folder, or named by it, may run: the user decides, never the folder itself."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from utils.core.errors import UserError

if TYPE_CHECKING:
    from utils.config.document import Document
    from utils.config.run_config import RunConfig
    from utils.config.sections.model import ModelSection

_MEANING = {
    "trust_remote_code": "run Python code that the checkpoint ships",
    "allow_pickle": "load pickled weights, which can hold code",
    "allow_hub_kernels": "run compiled code of the hub (model.attn_implementation)",
    "allow_extensions": "run Python code that a run's own file names (extensions:, metrics of the library evaluate)",
}


@dataclass(frozen=True)
class Consent:
    """What the user allows a command to run, by its options or by their own file."""

    trust_remote_code: bool = False
    allow_pickle: bool = False
    allow_hub_kernels: bool = False
    allow_extensions: bool = False

    @classmethod
    def of_command(cls, arguments: argparse.Namespace) -> Consent:
        """Read the options added by `add_consent`."""
        return cls(**{name: getattr(arguments, name) for name in _MEANING})

    @classmethod
    def of_section(cls, section: ModelSection) -> Consent:
        """Read what the user's own configuration allows."""
        return cls(section.trust_remote_code, section.allow_pickle, "/" in section.attn_implementation)

    @classmethod
    def of_config(cls, config: RunConfig) -> Consent:
        """Read what the user's own file allows, including its extensions."""
        return replace(cls.of_section(config.model), allow_extensions=bool(config.extensions))

    def with_overrides(self, overrides: Document) -> Consent:
        """Add what `key=value` arguments of the command line allow."""
        attention = str(overrides.get(("model", "attn_implementation"), ""))
        said = {name: overrides.get(("model", name)) is True for name in ("trust_remote_code", "allow_pickle")}
        return self.joined(Consent(**said, allow_hub_kernels="/" in attention))

    def as_overrides(self) -> list[str]:
        """Return the consent as `key=value` arguments."""
        return [f"model.{name}=true" for name in ("trust_remote_code", "allow_pickle") if getattr(self, name)]

    def joined(self, other: Consent) -> Consent:
        """Return the union of two consents."""
        return Consent(**{name: getattr(self, name) or getattr(other, name) for name in _MEANING})

    def apply(self, section: ModelSection, name: str) -> ModelSection:
        """Replace the permissions in a section of a folder's own run.yaml by the user's.

        Raises:
            UserError: The section asks for something that the user has not allowed.
        """
        asked = Consent.of_section(section)
        missing = [each for each in _MEANING if getattr(asked, each) and not getattr(self, each)]
        if missing:
            what, flags = " and ".join(_MEANING[each] for each in missing), " ".join(f"--{each}" for each in missing)
            raise UserError(
                f"{name}: its own run.yaml asks to {what}; a folder cannot allow that itself: if you trust who made "
                f"it, add {flags}"
            )
        return section.model_copy(
            update={"trust_remote_code": self.trust_remote_code, "allow_pickle": self.allow_pickle}
        )


NO_CONSENT = Consent()


def add_consent(parser: argparse.ArgumentParser) -> None:
    """Add the options that allow code of a model's folder to run."""
    _add(parser, "code of the model's folder (only if you trust who made it)", *_MEANING)


def add_extensions_consent(parser: argparse.ArgumentParser) -> None:
    """Add the option that allows the extensions of a run's folder to run, for commands without a model."""
    _add(parser, "code of the run's folder (only if you trust who made it)", "allow_extensions")


def _add(parser: argparse.ArgumentParser, title: str, *names: str) -> None:
    group = parser.add_argument_group(title)
    for name in names:
        group.add_argument(f"--{name}", action="store_true", help=_MEANING[name])
