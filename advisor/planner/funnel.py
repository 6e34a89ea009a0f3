"""How many candidates there were at each stage, and which choices no device set needs to be tried for.

Choices are pruned in the order in which they are put together: method and format, runtime, devices, settings, memory.
A choice that a rule excludes for what it is, wherever it would run, is looked at once.
"""

from __future__ import annotations

from typing import Final

from advisor.facts.plan import Stage
from advisor.guide.engine import Ready
from advisor.guide.schema import Rule
from advisor.planner.candidate import Candidate

# Facts that differ between formats of one method; a rule that asks for none of them speaks for all formats at once.
BY_FORMAT: Final = frozenset(
    f"candidate.{name}"
    for name in ("format", "bits", "group", "group_divides", "source", "imatrix", "imatrix_need", "exceeds_source",
                 "supported", "device_supported", "quantizer", "fits_gpu_alone", "fits_fewer_devices",
                 "rank_group_divides", "repacked_ratio", "tensor_types", "kernels_lacked")
)  # fmt: skip
# Facts that differ between device sets; a rule that asks for none of them speaks for all devices at once.
_BY_DEVICE: Final = frozenset(
    f"candidate.{name}"
    for name in ("placement", "device_supported", "tensor_parallel", "pipeline_parallel", "heads_divide",
                 "columns_divide", "across_machines", "rank_group_divides", "engine_duplicate", "repacked_ratio",
                 "fits_gpu_alone", "fits_fewer_devices", "kernels_lacked")
)  # fmt: skip

Choice = tuple[str, ...]


def choice_of(c: Candidate) -> Choice:
    """What is chosen before devices are."""
    return (c.method, c.format, c.runtime)


class Funnel:
    """Counts candidates, and remembers rules that speak for many of them."""

    def __init__(self) -> None:
        self._rules: dict[tuple[str, ...], Rule] = {}
        self._choices: set[Choice] = set()
        self._out: set[Choice] = set()
        self.sets = self.allowed = self.settled = 0

    def known(self, c: Candidate) -> Rule | None:
        """The rule by which a candidate is out like one before it."""
        for key in self._keys(c):
            if key in self._rules:
                return self._rules[key]
        return None

    def tried(self, c: Candidate) -> bool:
        """Count a candidate; whether it has to be looked at: not where its choice is out on every device.

        A rule that speaks for all formats of a method on a set of devices is counted once.
        """
        choice = choice_of(c)
        if choice in self._out:
            return False
        self._choices.add(choice)
        everywhere, _, here = self._keys(c)
        if everywhere in self._rules or (c.method, c.runtime) in self._rules:
            self._out.add(choice)
        elif here not in self._rules:
            self.sets += 1
        return True

    def excluded(self, c: Candidate, out: Ready) -> None:
        """Remember for which other candidates the rule speaks, too."""
        by_device = any(f in _BY_DEVICE or f.startswith("device.") for f in out.varies)
        by_format = bool(out.varies & BY_FORMAT)
        if not by_device:
            self._rules[choice_of(c) if by_format else (c.method, c.runtime)] = out.rule
            self._out.add(choice_of(c))
            self.sets -= 1
        elif not by_format:
            self._rules[(c.method, c.runtime, c.target.placement, str(c.pipeline), *c.target.keys)] = out.rule

    @property
    def considered(self) -> int:
        """Candidates that were looked at."""
        return self.sets + len(self._out)

    def stages(self, ranked: int) -> tuple[Stage, ...]:
        """The counts, in the order of pruning; ``ranked`` candidates were left."""
        return (
            Stage(stage="runtime", tried=len(self._choices), kept=len(self._choices) - len(self._out)),
            Stage(stage="devices", tried=self.sets, kept=self.allowed),
            Stage(stage="settings", tried=self.allowed, kept=self.settled),
            Stage(stage="memory", tried=self.settled, kept=ranked),
        )

    @staticmethod
    def _keys(c: Candidate) -> tuple[tuple[str, ...], ...]:
        placed = (c.method, c.runtime, c.target.placement, str(c.pipeline), *c.target.keys)
        return (choice_of(c), (c.method, c.runtime), placed)
