"""What of the system stands in the way, and the command that mends it."""

from __future__ import annotations

import resource
import socket

import msgspec
import pytest

from advisor import settings as settings_
from advisor.api import health_system
from advisor.probes.catalog import machine_from
from tests.support.samples import sample_machine

GIB = 1 << 30


@pytest.mark.parametrize(
    ("vendor", "reason", "container", "hint"),
    [
        ("nvidia", "driver/library version mismatch", None, "sudo reboot"),
        ("nvidia", "no driver; this container has no access to it", "docker", "docker run --gpus all"),
        ("nvidia", "this container has no access to it", "podman", "podman run --device nvidia.com/gpu=all"),
        ("amd", "this container has no access to it", "docker", "--device /dev/kfd"),
        ("amd", "this container has no access to it", "kubernetes", "amd.com/gpu"),
        ("intel", "permission denied on /dev/dri/renderD128", None, "usermod -aG render"),
        ("nvidia", "it is in MIG mode, but has no slices", None, "nvidia-smi mig"),
        ("nvidia", "the driver did not answer", None, "nvidia-smi"),
        ("amd", "the driver did not answer", None, "rocm-smi"),
    ],
)  # fmt: skip
def test_each_reason_has_its_remedy(vendor: str, reason: str, container: str | None, hint: str) -> None:
    d = machine_from(["rtx-4090"], base=sample_machine()).devices[0]
    bad = msgspec.structs.replace(d, vendor=vendor, unusable=reason)
    found = health_system.device(bad, container)
    assert found.ok is False
    assert reason in found.message
    assert hint in (found.hint or "")
    assert health_system.device(d, container).ok is True


def test_low_limits_are_told_with_what_raises_them(monkeypatch: pytest.MonkeyPatch) -> None:
    low = {resource.RLIMIT_NOFILE: 256, resource.RLIMIT_NPROC: 64, resource.RLIMIT_AS: 4 * GIB}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (low[kind], low[kind]))
    found = health_system.limits(16 * GIB)
    assert [c.hint for c in found] == ["ulimit -n 1024", "ulimit -u 512", "ulimit -v unlimited"]
    assert all(c.ok is False for c in found)
    assert "256 open files" in found[0].message
    low = dict.fromkeys(low, resource.RLIM_INFINITY)
    (one,) = health_system.limits(16 * GIB)
    assert one.ok is True


def test_a_taken_port_is_told_with_a_free_one() -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        taken = s.getsockname()[1]
        found = health_system.port(settings_.load({"port": taken}), set())
        assert found.ok is None
        assert str(taken) in found.message
        assert (found.hint or "").startswith("advisor up --port ")
        assert str(taken) not in (found.hint or "")
        assert health_system.port(settings_.load({"port": taken}), {taken}).ok is True
    assert health_system.port(settings_.load({"port": taken}), set()).ok is True


def test_a_device_that_no_build_reaches_is_told() -> None:
    s = settings_.load()
    card = machine_from(["rtx-4090"], base=sample_machine()).devices
    machine = msgspec.structs.replace(sample_machine(), devices=card, buildable=(), prebuilt=None)
    (found,) = health_system.builds(s, machine)
    assert found.name == "llama.cpp for nvidia"
    assert (found.ok is None) == (found.hint is not None)
    assert health_system.builds(s, msgspec.structs.replace(machine, devices=())) == []
