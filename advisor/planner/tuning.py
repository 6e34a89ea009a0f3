"""Settings of the runtime that rules choose (``settings.load_mode``): settled before a candidate is costed."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from advisor.facts.catalogue import SETTING_PREFIX
from advisor.facts.plan import Settings
from advisor.guide.engine import prepare, run
from advisor.guide.schema import RulePack, Scalar
from advisor.planner.candidate import Candidate
from advisor.planner.facts import CandidateFacts, Facts


def is_setting(key: str | None) -> bool:
    """Whether a rule's key names a setting of the runtime."""
    return key is not None and key.startswith(SETTING_PREFIX)


def parameters(values: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """What rules set for the quantizer: all but the settings of the runtime, which stand in the plan's settings."""
    return {key: value for key, value in values.items() if not is_setting(key)}


class Tuning:
    """Applies the rules that set a setting, and those that override one of them, to one candidate after another."""

    def __init__(self, pack: RulePack, fixed: Facts, facts: CandidateFacts) -> None:
        setting = {r.id for r in pack.rules if is_setting(r.key)}
        chosen = tuple(r for r in pack.rules if r.id in setting or setting & set(r.overrides))
        self._rules = prepare(msgspec.structs.replace(pack, rules=chosen), fixed).all
        self._fixed, self._facts = fixed, facts

    def __call__(self, c: Candidate, settings: Settings) -> Settings:
        """``settings`` with what the rules set for the candidate; a setting that does not apply to it stays away."""
        if not self._rules:
            return settings
        found = run(self._rules, {**self._fixed, **self._facts.of(c)}).values
        new = {key.removeprefix(SETTING_PREFIX): value for key, value in found.items() if is_setting(key)}
        if settings.load_mode is None:
            new.pop("load_mode", None)
        return msgspec.structs.replace(settings, **new) if new else settings
