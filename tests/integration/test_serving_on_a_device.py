"""Serving over HTTP with layers on a software Vulkan device: the prebuilt server, launched as a plan launches it.

Nothing is ever planned on a software device; the plans here are made by hand. The server always runs under a limit of
address space, which is also the only memory that such a device has.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from advisor import settings as settings_
from advisor.api import launching, planning, serving
from advisor.api.making import Made
from advisor.api.providing import Serving
from advisor.cost.device_work import device_work, habits
from advisor.cost.gguf_file import weight_map
from advisor.cost.kv import cells
from advisor.cost.llama_memory import memory
from advisor.cost.offload import engine_buffers
from advisor.cost.placement import place
from advisor.deploy import client
from advisor.errors import AdvisorError
from advisor.execute.envs import Env, ensure
from advisor.execute.llama import prebuilt
from advisor.execute.steps import Steps
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Plan, Settings
from advisor.facts.results import Deployment
from advisor.model.resolve import resolve
from advisor.model.tensors import tensors
from tests.engine.vulkan import real_file
from tests.support import lavapipe, shapes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
MIB = 1 << 20
LIMIT = 6 << 30
MACHINE = shapes.machine(shapes.gpu(name="llvmpipe", vendor="other", memory=2 << 30))
PLACES = ("gpu0", "host")
BUFFER = re.compile(r"(\w+) +(model|KV|compute|output) buffer size = +([\d.]+) MiB")
PARTS = {"model": "weights", "KV": "kv"}
WORDY = {"LLAMA_ARG_LOG_VERBOSITY": "4", "LLAMA_LOG_VERBOSITY": "4"}  # sizes of buffers are not logged otherwise
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


class Home(NamedTuple):
    """A home of its own with the shared environments in it, and the server there."""

    settings: settings_.Settings
    env: Env
    server: Serving


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, shared_home: Path) -> Iterator[Home]:
    shown = {**lavapipe.variables(shared_home), "MALLOC_ARENA_MAX": "1", **WORDY}
    shared = settings_.load(env={**os.environ, "ADVISOR_HOME": str(shared_home)})
    env = ensure("llama.cpp-vulkan", settings=shared, variables=shown)
    fresh = tmp_path_factory.mktemp("home of a device")
    own = settings_.load(env={**os.environ, "ADVISOR_HOME": str(fresh)})
    plain = settings_.child_environment
    with pytest.MonkeyPatch.context() as patch:
        # The driver may be unpacked where no loader looks: its variables have to get through to the server.
        patch.setattr(settings_, "child_environment", lambda env=None: {**plain(env), **shown})
        kept = prebuilt.facts(env, own)
        assert kept.works is not False, kept.why
        assert [d.name for d in kept.binary.devices] == ["Vulkan0"]
        yield Home(own, env, Serving("wheel", kept.binary))
        serving.down(all=True, settings=own)


class Model(NamedTuple):
    """A real file and what it is."""

    path: Path
    facts: ModelFacts
    tensors: tuple[TensorSpec, ...]
    fmt: str


def model_of(shared_home: Path, fmt: str) -> Model:
    path = real_file(shared_home, fmt).path
    facts = resolve(str(path))
    return Model(path, facts, tensors(facts), fmt)


@pytest.fixture(scope="module")
def f16(shared_home: Path) -> Model:
    """SmolLM2-135M-Instruct in F16: layers that stay on the host compute on every processor that the server is for."""
    return model_of(shared_home, "f16")


@pytest.fixture(scope="module")
def q8_0(shared_home: Path) -> Model:
    """The same in Q8_0."""
    return model_of(shared_home, "q8_0")


def plan_of(model: Model, settings: Settings) -> Plan:
    """A plan for the CPU, with layers moved to the device."""
    report = planning.recommend(str(model.path), machine=shapes.machine(), runtime="llama.cpp", top=1)
    need = memory(
        model.facts, model.tensors, fmt=model.fmt, settings=settings, machine=MACHINE, devices=PLACES, as_is=True
    )
    plan = report.plans[0]
    return msgspec.structs.replace(
        plan, id=f"p-{settings.gpu_layers:06x}", settings=settings, devices=PLACES, memory=need
    )


@contextmanager
def limited(limit: int) -> Iterator[None]:
    """Processes that are started meanwhile may take ``limit`` bytes of address space each."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def launch(home: Home, model: Model, settings: Settings, *, name: str, limit: int = LIMIT) -> Deployment:
    made = Made(model.path, None, False, {}, None, ())
    with limited(limit):
        started, key = launching.launch(
            home.settings,
            Steps(),
            serving.manager(home.settings),
            plan_of(model, settings),
            model.facts,
            made,
            home.env,
            name,
            launching.endpoint_of(home.settings, None, None),
            home.server,
            MACHINE,
        )
    assert key is None
    return started


def buffers(log: str) -> dict[str, dict[str, float]]:
    """Bytes by device (``host``, ``Vulkan0``) and part, out of a server's log."""
    out: dict[str, dict[str, float]] = {"host": {}, "Vulkan0": {}}
    for where, what, size in BUFFER.findall(log):
        parts = out["Vulkan0" if where == "Vulkan0" else "host"]
        part = PARTS.get(what, what)
        parts[part] = parts.get(part, 0) + float(size) * MIB
    return out


def answer(started: Deployment) -> str:
    """One chat completion through the endpoint that a client is given."""
    reply = client.chat(started.openai_base_url, started.model, QUESTION, max_tokens=8, timeout_s=600)
    return reply.text


def processes(path: Path) -> list[str]:
    """Processes of this machine that were told of a file."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = line.read_bytes().split(b"\0")
        except OSError:
            continue
        if str(path).encode() in words:
            found.append(line.parent.name)
    return found


@pytest.mark.parametrize(
    "settings",
    [
        Settings(context=2048, gpu_layers=12, threads=2, load_mode="mmap"),
        Settings(context=2048, gpu_layers=31, threads=2, load_mode="mmap"),
        Settings(context=8192, gpu_layers=20, ubatch=128, threads=2, load_mode="mmap"),
    ],
    ids=lambda s: f"{s.gpu_layers}-{s.context}-{s.ubatch}",
)
def test_layers_of_a_plan_are_on_the_device_and_answer(settings: Settings, home: Home, f16: Model) -> None:
    deployments = serving.manager(home.settings)
    name = f"layers-{settings.gpu_layers}"
    started = launch(home, f16, settings, name=name)
    try:
        assert (started.state, started.provider) == ("ready", "wheel")
        assert "Paris" in answer(started)
        log = Path(str(started.log)).read_text(encoding="utf-8", errors="replace")
        assert f"offloaded {settings.gpu_layers}/31 layers to GPU" in log
        hold_against(f16, settings, buffers(log))
        taken = deployments.memory(name)
        assert taken is not None
        assert 50 * MIB < taken.value < LIMIT
        (seen,) = serving.status(name, settings=home.settings)
        assert (seen.state, seen.provider) == ("ready", "wheel")
    finally:
        (ended,) = serving.down(name, settings=home.settings)
    assert ended.state == "stopped"
    assert not processes(f16.path)


def hold_against(model: Model, settings: Settings, got: dict[str, dict[str, float]]) -> None:
    """What the formulas say of each device, against what the server allocated there."""
    need = plan_of(model, settings).memory
    device, host = got["Vulkan0"], got["host"]
    both = {what: device.get(what, 0) + host.get(what, 0) for what in ("kv", "output")}
    assert need.kv_cache.value == pytest.approx(both["kv"], abs=0.03 * MIB)
    assert need.output.value == pytest.approx(both["output"], abs=0.01 * MIB)
    told = engine_buffers(need.by_device["gpu0"], MACHINE, "gpu0")
    on_device = sum(device.values())
    assert told.low - 0.03 * MIB <= on_device <= told.high + 0.03 * MIB
    assert told.value / on_device == pytest.approx(1, abs=0.02)
    weights = weight_map(model.facts, model.tensors, model.fmt, imatrix=False, as_is=True)
    at = place(len(weights.layers), settings, MACHINE, PLACES)
    room = cells(model.facts, settings)
    habit = habits("wheel", settings.ubatch)
    work = device_work(model.facts, model.tensors, settings, room, weights, at, "gpu0", habit)
    assert work.low <= device["compute"] <= work.high
    # What is no work buffer is exact.
    assert told.value - work.value == pytest.approx(on_device - device["compute"], abs=0.04 * MIB)
    # A mapping spans what lies between the tensors that stay on the host.
    assert 0 < host["weights"] <= model.path.stat().st_size


def test_too_little_memory_at_load_is_named_and_leaves_nothing(home: Home, f16: Model) -> None:
    fits = Settings(context=2048, gpu_layers=31, threads=2, load_mode="mmap")
    started = launch(home, f16, fits, name="fits")
    peak = Path(f"/proc/{started.pid}/status").read_text(encoding="ascii", errors="replace")
    address_space = next(int(line.split()[1]) << 10 for line in peak.splitlines() if line.startswith("VmPeak:"))
    serving.down("fits", settings=home.settings)
    # 32768 positions take 720 MiB of cache, with room for 100 MiB more than 2048 positions take.
    large = msgspec.structs.replace(fits, context=32768)
    with pytest.raises(AdvisorError) as e:
        launch(home, f16, large, name="large", limit=address_space + 100 * MIB)
    assert e.value.code == "server-failed"
    assert e.value.data["finding"]["code"] in ("device-out-of-memory", "out-of-memory")
    assert any(line.startswith("remedy: ") for line in e.value.context)
    (seen,) = serving.status("large", settings=home.settings)
    assert (seen.state, seen.pid) == ("failed", None)
    assert not processes(f16.path)
    # The same limit is enough for what the plan said.
    again = launch(home, f16, fits, name="large", limit=address_space + 100 * MIB)
    assert again.state == "ready"
    serving.down("large", settings=home.settings)
    assert not processes(f16.path)


def test_quantized_layers_on_the_host_do_as_the_health_check_said(home: Home, q8_0: Model) -> None:
    """Its part for the processor was compiled for one with AVX-VNNI: on others it must end in words, not in silence."""
    settings = Settings(context=1024, gpu_layers=12, threads=2, load_mode="mmap")
    if prebuilt.health(home.env)["layers_on_host"]:
        started = launch(home, q8_0, settings, name="mixed")
        assert answer(started).strip()
        serving.down("mixed", settings=home.settings)
    else:
        with pytest.raises(AdvisorError) as e:
            launch(home, q8_0, settings, name="mixed")
        assert e.value.code == "server-failed"
        assert e.value.data["finding"]["code"] == "illegal-instruction"
    assert not processes(q8_0.path)
    # With all layers on the device it serves either way.
    whole = msgspec.structs.replace(settings, gpu_layers=31)
    started = launch(home, q8_0, whole, name="whole")
    assert answer(started).strip()
    serving.down("whole", settings=home.settings)
    assert not processes(q8_0.path)
