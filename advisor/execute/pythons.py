"""Which interpreter a managed environment is built with."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from advisor import settings as settings_
from advisor.errors import AdvisorError
from advisor.facts.text import clean

if TYPE_CHECKING:
    from advisor.backends.pins import BackendPins

_CLAUSE: Final = re.compile(r"(>=|<=|==|!=|>|<)\s*3\.(\d+)(?:\.\*|\.0)?")


class Python(NamedTuple):
    """An interpreter to build with: its program, full version, and ``3.N``."""

    program: str
    version: str
    minor: str


def fits(minor: int, wanted: str) -> bool:
    """Whether Python 3.``minor`` is in a range such as ``>=3.11,<3.14``.

    Raises:
        AdvisorError: ``bad-profile``, the range cannot be read.
    """
    compare: dict[str, Callable[[int, int], bool]] = {
        ">=": lambda a, b: a >= b,
        "<=": lambda a, b: a <= b,
        "==": lambda a, b: a == b,
        "!=": lambda a, b: a != b,
        ">": lambda a, b: a > b,
        "<": lambda a, b: a < b,
    }
    for clause in wanted.split(","):
        m = _CLAUSE.fullmatch(clause.strip())
        if m is None:
            raise AdvisorError("bad-profile", f"Not a range of Python versions: {clean(wanted)!r}.")
        if not compare[m[1]](minor, int(m[2])):
            return False
    return True


def choose_python(pins: BackendPins) -> Python:
    """The running interpreter where the pins allow it, else the newest ``python3.N`` on the search path.

    Raises:
        AdvisorError: ``tool-missing``, there is none in the range.
    """
    mine = sys.version_info
    if sys.executable and fits(mine.minor, pins.python):
        return Python(sys.executable, ".".join(map(str, mine[:3])), f"3.{mine.minor}")
    path = settings_.child_environment().get("PATH")
    for minor in range(30, 10, -1):
        if fits(minor, pins.python):
            program = shutil.which(f"python3.{minor}", path=path)
            if program:
                return Python(program, f"3.{minor}", f"3.{minor}")
    raise AdvisorError(
        "tool-missing",
        f"The environment {pins.name} needs Python {pins.python}; this one is 3.{mine.minor} and no other is on PATH.",
        data={"python": pins.python},
    )
