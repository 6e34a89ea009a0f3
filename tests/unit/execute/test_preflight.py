from __future__ import annotations

from typing import Any

import msgspec
import pytest

from advisor.errors import AdvisorError
from advisor.execute.preflight import check_memory
from advisor.facts.base import from_json
from advisor.facts.machine import Machine
from advisor.facts.plan import Plan
from advisor.facts.quantity import Quantity

GIB = 2**30


def quantity(n: float, unit: str = "bytes") -> dict[str, Any]:
    return {"value": n, "low": n, "high": n, "unit": unit, "method": "exact", "source": "test"}


def plan(**by_device: int) -> Plan:
    parts = ("weights", "kv_cache", "state", "compute", "output", "repack", "overhead", "total")
    return from_json(
        Plan,
        {
            "id": "p-123456",
            "rank": 1,
            "status": "ready",
            "executable_here": True,
            "needs": [],
            "model": "m",
            "method": "gguf",
            "format": "q4_k_m",
            "quantizer": "llama.cpp",
            "runtime": "llama.cpp",
            "source": "quantize",
            "imatrix": False,
            "settings": {"context": 8192},
            "commands": {},
            "memory": {
                **{p: quantity(1) for p in parts},
                "reserved": None,
                "by_device": {k: quantity(v) for k, v in by_device.items()},
            },
            "speed": {"prefill": None, "decode": None},
            "quality": {"kld": None, "perplexity_ratio": None, "recovery": None},
            "time": {"fetch": None, "quantize": None, "start": None},
            "disk": {"download_bytes": 0, "peak_bytes": 0},
            "score": 0.0,
            "decisions": [],
            "assumptions": [],
            "warnings": [],
        },
    )


def machine(available: int | None, gpu_free: int | None = None, *, unified: bool = False) -> Machine:
    cpu = {"name": "c", "isa": [], "cores_physical": 2, "cores_logical": 2, "cores_granted": 2.0}
    device = {
        "id": "gpu0",
        "vendor": "nvidia",
        "name": "g",
        "profile": None,
        "memory": {"total_bytes": None, "usable_bytes": None, "free_bytes": gpu_free},
        "bandwidth": None,
        "compute_capability": 8.9,
        "formats": {},
        "unified_memory": unified,
        "link": None,
        "unusable": None,
    }
    memory = {"total_bytes": 64 * GIB, "limit_bytes": None, "available_bytes": available}
    return from_json(
        Machine,
        {
            "host": {"os": "linux", "arch": "x86_64", "cpu": cpu, "memory": memory, "bandwidth": None},
            "devices": [device],
            "runtimes": [],
            "provenance": [],
        },
    )


@pytest.mark.parametrize(
    "there",
    [
        machine(8 * GIB, 24 * GIB),
        machine(None, None),
        machine(12 * GIB, None, unified=True),
    ],
)
def test_enough_or_unknown_passes(there: Machine) -> None:
    check_memory(plan(host=4 * GIB, gpu0=8 * GIB), there)


def test_shortage_is_told_by_device_and_in_bytes() -> None:
    with pytest.raises(AdvisorError) as e:
        check_memory(plan(host=4 * GIB, gpu0=20 * GIB), machine(8 * GIB, 12 * GIB))
    assert (e.value.code, e.value.exit_code) == ("not-enough-memory", 5)
    assert e.value.data["devices"] == {"gpu0": {"needed_bytes": 20 * GIB, "free_bytes": 12 * GIB, "short_by": 8 * GIB}}
    assert "gpu0 needs 20.00 GiB and has 12.00 GiB free (8.00 GiB short)" in e.value.message


def test_unified_memory_is_the_hosts() -> None:
    with pytest.raises(AdvisorError) as e:
        check_memory(plan(gpu0=20 * GIB), machine(8 * GIB, None, unified=True))
    assert list(e.value.data["devices"]) == ["gpu0"]
    with pytest.raises(AdvisorError, match=r"gpu0 needs 12\.00 GiB and has 11\.00") as e:
        check_memory(plan(host=4 * GIB, gpu0=8 * GIB), machine(11 * GIB, None, unified=True))
    assert e.value.data["devices"]["gpu0"]["short_by"] == GIB


def test_a_share_of_the_device_must_be_free_when_the_runtime_starts() -> None:
    whole = plan(host=GIB, gpu0=8 * GIB)
    settings = msgspec.structs.replace(whole.settings, gpu_memory_utilization=0.9)
    wanted = msgspec.structs.replace(whole, runtime="vllm", settings=settings)

    def with_free(n: int) -> Machine:
        box = machine(8 * GIB, n)
        (device,) = box.devices
        memory = msgspec.structs.replace(device.memory, total_bytes=20 * GIB)
        return msgspec.structs.replace(box, devices=(msgspec.structs.replace(device, memory=memory),))

    check_memory(wanted, with_free(18 * GIB))
    check_memory(wanted, machine(8 * GIB, 9 * GIB))  # the whole of it is not known
    with pytest.raises(AdvisorError, match=r"vllm asks for 18\.00 GiB of gpu0 when it starts \(0\.9 of all") as e:
        check_memory(wanted, with_free(18 * GIB - 1))
    assert e.value.code == "not-enough-memory"
    assert e.value.data["devices"]["gpu0"] == {
        "needed_bytes": 18 * GIB, "free_bytes": 18 * GIB - 1, "short_by": 1,
    }  # fmt: skip


def test_making_needs_its_memory_before_anything_is_made() -> None:
    wanted = msgspec.structs.replace(
        plan(host=GIB),
        making_memory=Quantity(value=30 * GIB, low=20 * GIB, high=40 * GIB, unit="bytes", method="fit", source="test"),
    )
    with pytest.raises(AdvisorError, match="Making q4_k_m takes about 30") as e:
        check_memory(wanted, machine(19 * GIB))
    assert e.value.code == "not-enough-memory"
    assert e.value.data["making"] == {"needed_bytes": 20 * GIB, "free_bytes": 19 * GIB}
    check_memory(wanted, machine(21 * GIB))
