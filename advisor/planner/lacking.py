"""Ways whose kernels lacked when a plan of this machine was launched: they are left out while the lesson holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from advisor.facts.machine import Machine
from advisor.facts.recovery import KernelLesson
from advisor.planner.lessons import RESET
from advisor.planner.token_work import device_names

_HOST: Final = "cpu"
# What is said in brackets after a rule's reason has none inside.
_PLAIN: Final = str.maketrans("()", "[]")


def speaks_of(lesson: KernelLesson, runtime: str, method: str, fmt: str, devices: Sequence[str]) -> bool:
    """Whether a lesson is about a runtime with a method and a format on devices, which are named, the host as ``cpu``.

    What lacked on an accelerator lacks wherever that one takes part; what lacked on the host alone says nothing of the
    host beside an accelerator, where another build serves.
    """
    if (lesson.runtime, lesson.method) != (runtime, method) or lesson.format not in (None, fmt):
        return False
    mine = frozenset(lesson.devices)
    return mine <= frozenset(devices) if mine - {_HOST} else mine == frozenset(devices)


def words(lesson: KernelLesson) -> str:
    """Where a lesson comes from, and how it is forgotten."""
    day = f" on {lesson.learned_at[:10]}" if lesson.learned_at else ""
    said = f"learned{day} from plan {lesson.plan} on {' and '.join(lesson.devices)}, {lesson.engine}: {lesson.evidence}"
    return f"{said.rstrip('.')}; to try it again: {RESET}".translate(_PLAIN)


class Lacking:
    """The lessons that hold on ``machine``: what each speaks of is not planned there."""

    def __init__(self, lessons: Iterable[KernelLesson], machine: Machine) -> None:
        self.lessons, self.machine = tuple(lessons), machine
        self._names: dict[tuple[str, ...], tuple[str, ...]] = {}

    def find(self, runtime: str, method: str, fmt: str, keys: tuple[str, ...]) -> KernelLesson | None:
        """The latest lesson on a way to run a model on the devices ``keys``, ``None`` where there is none."""
        if keys not in self._names:
            self._names[keys] = device_names(self.machine, keys)
        names = self._names[keys]
        return next((x for x in reversed(self.lessons) if speaks_of(x, runtime, method, fmt, names)), None)

    def notes(self) -> tuple[str, ...]:
        """What is not planned, in sentences with their source."""
        return tuple(
            f"{x.method if x.format is None else x.format} in {x.runtime} on {' and '.join(x.devices)} is not planned "
            f"here, for lack of kernels: {words(x)}"
            for x in self.lessons
        )
