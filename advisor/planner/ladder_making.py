"""The recovery ladder's steps for an artifact that cannot be made or proven: what takes less memory to make."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from advisor.facts.plan import Plan
from advisor.facts.recovery import LadderStep
from advisor.planner import asked
from advisor.planner.building import Scored
from advisor.planner.ladder import HOST, Ladder, ordered

# Not asked for again: the method, and what belongs to it.
_FREE: Final = ("method", "format", "runtime", "quantizer", "calibration", "kv_type")


class MakingLadder(Ladder):
    """A ladder with steps for what comes before a launch."""

    def making(self, room_bytes: int | None) -> tuple[LadderStep, ...]:
        """Steps whose artifact takes less host memory to make than the plan's, or is not made here at all.

        Args:
            room_bytes: what there is; nothing is offered that is known to take more at the least.
        """
        found: dict[str, LadderStep] = {}
        self.planner.ubatch, self.planner.types = self.plan.settings.ubatch, ()
        for request in (self._move(calibration=None), self._move(**dict.fromkeys(_FREE), top=20)):
            kept = self.planner.plan(self.machine, self.goal, request).kept
            for s in sorted(kept, key=lambda s: (s.candidate.target.keys != self.plan.devices, -s.score)):
                if not self._made_with_less(s, room_bytes):
                    continue
                step = self._step("making", s, HOST, self._saved(s))
                if step is not None and step.plan.id != self.plan.id:
                    found.setdefault(step.plan.id, step)
        return ordered(found)

    def _made_with_less(self, s: Scored, room: int | None) -> bool:
        own, new = self.plan, s.cost.making_memory
        if s.candidate.source != "quantize":
            return own.source == "quantize" or s.candidate.source != own.source
        if s.candidate.method == "gguf":  # tensor by tensor; an importance matrix takes the whole model
            return own.method != "gguf" or (own.imatrix and not s.imatrix)
        if own.method == "gguf" or new is None or (room is not None and new.low > room):
            return False
        return own.making_memory is not None and new.value < own.making_memory.value

    def _saved(self, s: Scored) -> int | None:
        """Bytes of the host's memory that making takes less, where both figures are known."""
        own, new = self.plan.making_memory, s.cost.making_memory
        if own is None:
            return None
        if s.candidate.source != "quantize":
            return int(own.value)
        return int(own.value - new.value) if new is not None else None

    def proof(self) -> tuple[LadderStep, ...]:
        """The same artifact, proven by itself: only one model is in memory then. Empty where that was given up before,
        or where there is no original to hold it against."""
        if asked.alone(self.plan.parameters) or self.plan.source in ("prequantized", "as-is"):
            return ()
        step = LadderStep(
            kind="proof",
            change="proven against the original -> by itself",
            given_up="how far it is from the original stays unmeasured",
            device=HOST,
            frees_bytes=None,
            loss=0.0,
            plan=proven_alone(self.plan),
        )
        return (step,)


def proven_alone(plan: Plan) -> Plan:
    """The plan whose artifact is not held against the original."""
    own = hashlib.sha256(f"{plan.id} {asked.ALONE}".encode()).hexdigest()
    return msgspec.structs.replace(
        plan,
        id=f"p-{own[:8]}",
        parameters={**plan.parameters, asked.ALONE: True},
        warnings=(*plan.warnings, "It is proven by itself: how far it is from the original stays unmeasured."),
    )
