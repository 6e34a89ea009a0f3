"""Loads runner scripts as modules: they import each other by bare name, from their own folder."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from advisor.execute.proc import RUNNERS


def runner(name: str) -> ModuleType:
    """The module of ``advisor/execute/runners/NAME.py`` (standard library only at import)."""
    sys.path.insert(0, str(RUNNERS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(RUNNERS))
