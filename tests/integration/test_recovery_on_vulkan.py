"""A real model runs out of the memory of a software Vulkan device: `advisor up` recovers without help, and learns.

Nothing is ever planned on a software device, so the probe of these tests shows it as a card of 2 GiB, which is what its
driver says it has. The driver takes the device's memory out of the address space of the process, so a limit of that,
set while `up` launches and on servers alone, is a device with less memory than it tells.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from advisor import api
from advisor import settings as settings_
from advisor.api import receipts
from advisor.errors import AdvisorError
from advisor.events import Cancel, Event
from advisor.execute.envs import ensure
from advisor.facts.plan import Plan
from advisor.probes import detect
from tests.engine.vulkan import real_file
from tests.support import lavapipe, shapes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MIB = 1 << 20
LIMIT = 6 << 30
DEVICE = "llvmpipe"
WISH: dict[str, Any] = {"runtime": "llama.cpp", "format": "q8_0", "context": 8192, "parallel": 4, "threads": 2}


class Home(NamedTuple):
    """A home with the shared environments in it, a model, and the address space of a server that has all it wants."""

    settings: settings_.Settings
    model: str
    plan: Plan
    address_space: int


class Limited:
    """Servers that are started while this listens may take ``bytes`` of address space; advisor itself is not."""

    def __init__(self, bytes_: int) -> None:
        self.bytes, self.before = bytes_, resource.getrlimit(resource.RLIMIT_AS)
        self.failed: list[str] = []
        self.cancel = Cancel()

    def __call__(self, event: Event) -> None:
        if event.step == "launch" and event.kind == "step-started":
            resource.setrlimit(resource.RLIMIT_AS, (self.bytes, self.before[1]))
        if event.step == "launch" and event.kind in ("step-finished", "step-reused", "step-failed"):
            resource.setrlimit(resource.RLIMIT_AS, self.before)
            self.cancel.set()
        if event.kind == "step-failed":
            self.failed.append(event.message or "")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, shared_home: Path) -> Iterator[Home]:
    shown = {**lavapipe.variables(shared_home), "MALLOC_ARENA_MAX": "1"}
    shared = settings_.load(env={**os.environ, "ADVISOR_HOME": str(shared_home)})
    for name in ("llama.cpp-vulkan", "llama.cpp", "convert"):
        ensure(name, settings=shared, variables=shown if name == "llama.cpp-vulkan" else None)
    fresh = tmp_path_factory.mktemp("home of a small device")
    (fresh / "cache").symlink_to(shared.paths.cache)  # what was proven once is not proven again
    own = settings_.load(env={**os.environ, "ADVISOR_HOME": str(fresh)})
    plain, probed = settings_.child_environment, detect.detect
    card = shapes.gpu(name=DEVICE, vendor="intel", memory=2 << 30, bandwidth=200 * 10**9, tflops=20.0)
    memory = msgspec.structs.replace(card.memory, free_bytes=card.memory.total_bytes)
    card = msgspec.structs.replace(card, memory=memory, compute_capability=None)

    def with_card(**options: Any) -> detect.Probed:
        found = probed(**options)
        return found._replace(machine=msgspec.structs.replace(found.machine, devices=(card,)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings_, "child_environment", lambda env=None: {**plain(env), **shown})
        patch.setattr(detect, "detect", with_card)
        model = str(real_file(shared_home, "q8_0").path)
        # On a software device a token of a prompt takes a good part of a second.
        patch.setattr(receipts, "prompt_tokens", lambda plan: 4)
        patch.setattr(receipts, "_DECODE_TOKENS", 2)
        plan = api.recommend(model, settings=own, **WISH).plans[0]
        assert plan.devices == ("gpu0",)
        unlimited = Limited(LIMIT)
        with pytest.raises(AdvisorError, match="Stopped as asked"):  # before it is asked anything
            api.up(model, settings=own, reporter=unlimited, cancel=unlimited.cancel, **WISH)
        assert unlimited.failed == []
        (ready,) = api.status(settings=own)
        assert (ready.state, ready.plan_id) == ("ready", plan.id)
        status = Path(f"/proc/{ready.pid}/status").read_text(encoding="ascii", errors="replace")
        peak = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmPeak:"))
        api.down(all=True, settings=own)
        yield Home(own, model, plan, peak)
        api.down(all=True, settings=own)


def test_a_device_with_less_memory_than_it_tells_is_recovered_from_and_known_afterwards(home: Home) -> None:
    assert home.plan.speed.decode is not None
    wish = {**WISH, "min_tps": 0.8 * home.plan.speed.decode.value}  # which the host does not reach
    cache = int(home.plan.memory.kv_cache.value)
    small = Limited(home.address_space - cache // 2)
    done = api.up(home.model, settings=home.settings, recover="auto", reporter=small, **wish)
    try:
        assert 1 <= len(small.failed) < 3, small.failed
        assert done.deployment is not None and done.deployment.state == "ready"
        assert done.receipt is not None and done.receipt.answer is not None
        assert done.receipt.answer.strip()  # of a chat through its endpoint
        steps = done.deployment.recovered
        assert len(steps) == len(small.failed)
        for step in steps:
            assert (step.diagnosis.cause, step.diagnosis.device, step.diagnosis.when) == (
                "out-of-memory",
                "gpu0",
                "load",
            )
            assert step.frees_bytes is not None and step.missing_bytes is not None
            assert step.frees_bytes > step.missing_bytes > 0 and step.change and step.given_up
            assert any("Vulkan0" in line or "ErrorOutOfDeviceMemory" in line for line in step.diagnosis.evidence)
        assert "gpu0" in done.plan.devices
        assert done.plan.memory.by_device["gpu0"].value < home.plan.memory.by_device["gpu0"].value
        # What the device held is read off the log, so that little more is given up than has to be.
        assert steps[0].diagnosis.had_bytes is not None
        assert steps[0].diagnosis.had_bytes > 0.75 * home.plan.memory.weights.value
    finally:
        api.down(all=True, settings=home.settings)
    # The next plan knows, by the name of the device, and what it takes there is within what could be had.
    known = api.recommend(home.model, settings=home.settings, **wish)
    (told,) = [w.message for w in known.warnings if w.code == "memory-learned"]
    ceiling = int(re.match(r"At most (\d+) MiB of llvmpipe ", told)[1])  # type: ignore[index]
    assert home.plan.id in told
    takes = [p.memory.by_device["gpu0"].value for p in known.plans if "gpu0" in p.devices]
    assert all(size <= ceiling * MIB for size in takes)
    assert api.forget_measured(settings=home.settings) is not None
    unknown = api.recommend(home.model, settings=home.settings, **wish)
    assert not [w for w in unknown.warnings if w.code == "memory-learned"]
    assert unknown.plans[0].id == home.plan.id


def test_without_leave_to_recover_it_stops_and_names_the_step(home: Home) -> None:
    small = Limited(home.address_space - int(home.plan.memory.kv_cache.value) // 2)
    with pytest.raises(AdvisorError) as e:
        api.up(home.model, settings=home.settings, recover="never", reporter=small, **WISH)
    found = e.value.data["diagnosis"]
    assert (found["cause"], found["device"]) == ("out-of-memory", "gpu0")
    assert e.value.data["learned"]["device"] == DEVICE
    assert any(line.startswith("next step: ") for line in e.value.context)
    assert api.forget_measured(settings=home.settings) is not None
