"""How servers end for lack of memory or of a kernel, as their logs and the system tell it, and what is made of it."""

from __future__ import annotations

import re
import signal

import pytest

from advisor.backends import causes
from advisor.backends.causes import Ended, diagnose
from advisor.backends.registry import runtimes
from tests.conftest import REPO

LOGS = REPO / "tests" / "fixtures" / "logs"
MIB = 1 << 20
GIB = 1 << 30
GPU = ("gpu0",)
SPLIT = ("gpu0", "host")


def log(name: str) -> tuple[str, ...]:
    return tuple((LOGS / f"{name}.log").read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize(
    ("runtime", "name", "devices", "device", "code", "wanted"),
    [
        ("llama.cpp", "llama-cuda-out-of-memory", GPU, "gpu0", "device-out-of-memory", 4304 * MIB),
        ("llama.cpp", "llama-cpu-out-of-memory", ("host",), "host", "context-too-large", 3019898880),
        ("llama.cpp", "vulkan-out-of-memory-weights", SPLIT, "gpu0", "device-out-of-memory", 143025408),
        ("llama.cpp", "vulkan-out-of-memory-pinned", SPLIT, "host", "out-of-memory", None),
        ("vllm", "vllm-out-of-memory", GPU, "gpu0", "out-of-memory", 448 * MIB),
        ("vllm", "vllm-cache-too-large", GPU, "gpu0", "context-too-large", 16 * GIB),
        ("transformers", "transformers-out-of-memory", ("host",), "host", "out-of-memory", 234881024),
        (
            "transformers",
            "transformers-device-out-of-memory",
            ("gpu0", "gpu1"),
            "gpu1",
            "device-out-of-memory",
            20 * MIB,
        ),
        ("ollama", "ollama-out-of-memory", ("host",), "host", "out-of-memory", int(5.6 * GIB)),
    ],
)
def test_recorded_logs(
    runtime: str, name: str, devices: tuple[str, ...], device: str, code: str, wanted: int | None
) -> None:
    found = diagnose(runtimes()[runtime], log(name), Ended(exit_code=1), devices=devices)
    assert found is not None
    assert (found.cause, found.code, found.device) == ("out-of-memory", code, device)
    if wanted is not None:
        assert found.wanted_bytes == pytest.approx(wanted, rel=0.1)
    assert any(line[:200] in "\n".join(log(name)) for line in found.evidence)
    assert "ended with exit code 1" in found.evidence
    if code != "context-too-large" or runtime != "vllm":  # vLLM plans its cache before it takes any memory
        assert any(re.search(p, "\n".join(log(name)), re.IGNORECASE | re.MULTILINE) for p in causes.SAID_BY_RUNTIMES)


def test_what_llama_cpp_held_before_is_known() -> None:
    found = diagnose(runtimes()["llama.cpp"], log("llama-cuda-out-of-memory"), Ended(exit_code=1), devices=GPU)
    assert found is not None
    assert found.had_bytes == int((4403.49 + 4096) * MIB)


@pytest.mark.parametrize(("runtime", "name", "there"), [
    ("vllm", "vllm-cache-too-large", 5.1), ("ollama", "ollama-out-of-memory", 3.2),
])  # fmt: skip
def test_what_the_runtime_says_is_there(runtime: str, name: str, there: float) -> None:
    found = diagnose(runtimes()[runtime], log(name), Ended(), devices=GPU)
    assert found is not None
    assert found.available_bytes == int(there * GIB)


def test_an_allocator_of_the_host_is_the_hosts_memory_also_where_all_layers_are_on_a_device() -> None:
    told = ("terminate called after throwing an instance of 'std::bad_alloc'", "  what():  std::bad_alloc")
    found = diagnose(runtimes()["llama.cpp"], told, Ended(exit_signal=6), devices=GPU)
    assert found is not None
    assert (found.code, found.device) == ("out-of-memory", "host")
    refused = "ggml_vulkan: Device memory allocation of size 188743680 failed."
    both = diagnose(runtimes()["llama.cpp"], (refused, *told), Ended(exit_signal=6), devices=GPU)
    assert both is not None and both.device == "gpu0"


QUIET = ("load_tensors: loading model tensors", "llama_kv_cache: CPU KV buffer size = 180.00 MiB")


def test_a_kill_that_the_kernel_counted_is_lack_of_memory() -> None:
    ended = Ended(exit_signal=9, oom_kills=1, limit_bytes=200 * MIB, peak_bytes=290 * MIB)
    found = diagnose(runtimes()["llama.cpp"], QUIET, ended, devices=("host",), when="traffic")
    assert found is not None
    assert (found.cause, found.code, found.device, found.when) == ("out-of-memory", "oom-kill", "host", "traffic")
    assert (found.limit_bytes, found.had_bytes, found.oom_kills) == (200 * MIB, 290 * MIB, 1)
    said = " ".join(found.evidence)
    assert "SIGKILL" in said and "1 kill for memory" in said and "200 MiB" in said


@pytest.mark.parametrize(
    "ended",
    [
        Ended(exit_signal=9),  # anybody may kill a process
        Ended(exit_code=137),
        Ended(exit_code=1, oom_kills=1),  # another one was killed
        Ended(exit_signal=int(signal.SIGSEGV), oom_kills=1),
        Ended(),
    ],
)
@pytest.mark.parametrize("runtime", sorted(runtimes()))
def test_without_evidence_there_is_no_diagnosis(runtime: str, ended: Ended) -> None:
    note = "[advisor 2026-11-21T19:50:16Z] failed: the server was killed by SIGKILL, most likely because memory ran out"
    assert diagnose(runtimes()[runtime], (*QUIET, note), ended, devices=("host",)) is None


def test_a_shells_137_counts_as_a_kill() -> None:
    found = diagnose(runtimes()["llama.cpp"], QUIET, Ended(exit_code=137, oom_kills=1), devices=("host",))
    assert found is not None and found.code == "oom-kill"


@pytest.mark.parametrize(
    ("runtime", "line", "ended", "device", "code"),
    [
        ("vllm", "ValueError: Failed to find a kernel that can implement the WNA16 linear layer.", Ended(exit_code=1),
         "gpu0", "no-kernel"),
        ("vllm", "RuntimeError: CUDA error: no kernel image is available for execution on the device",
         Ended(exit_code=1), "gpu0", "device-too-old"),
        ("transformers", "Could not run 'bitsandbytes::int8_mixed' with arguments", Ended(exit_code=1), "gpu0",
         "kernels-missing"),
        ("llama.cpp", "system_info: n_threads = 2", Ended(exit_signal=int(signal.SIGILL)), "host",
         "illegal-instruction"),
    ],
)  # fmt: skip
def test_kernels_that_lack(runtime: str, line: str, ended: Ended, device: str, code: str) -> None:
    found = diagnose(runtimes()[runtime], (line,), ended, devices=SPLIT)
    assert found is not None
    assert (found.cause, found.code, found.device) == ("unsupported-kernel", code, device)
    assert found.wanted_bytes is None


def test_evidence_is_safe_to_show_and_bounded() -> None:
    line = "\x1b[31malloc_tensor_range: failed to allocate CPU buffer of size 12\x1b[0m\u202e" + "x" * 5000
    found = diagnose(runtimes()["llama.cpp"], (line,) * 50, Ended(exit_code=1), devices=("host",))
    assert found is not None
    assert len(found.evidence) == 2
    assert all("\x1b" not in e and "\u202e" not in e and len(e) <= 241 for e in found.evidence)


def test_other_failures_are_not_taken_for_memory() -> None:
    lines = ("llama_model_load: error loading model: unknown model architecture: 'zeta5'",)
    assert diagnose(runtimes()["llama.cpp"], lines, Ended(exit_code=1), devices=("host",)) is None


REFUSED = (
    "llama_model_load: error loading model: mmap failed: Cannot allocate memory",
    "error: llama.cpp does not start: Failed to init server, please check the input params.",
)


def test_addresses_that_end_before_memory_does_are_no_lack_of_memory() -> None:
    limited = Ended(exit_code=1, address_limit=550_000 << 10)
    found = diagnose(runtimes()["llama.cpp"], REFUSED, limited)
    assert found is not None
    assert (found.cause, found.code, found.device) == ("process-limit", causes.ADDRESS_SPACE, "host")
    assert found.message == "The limit of 537 MiB on addresses stopped the server."
    assert REFUSED[0] in found.evidence
    free = diagnose(runtimes()["llama.cpp"], REFUSED, limited._replace(address_limit=None))
    assert free is not None and free.cause == "out-of-memory"
    killed = diagnose(runtimes()["llama.cpp"], QUIET, limited._replace(exit_code=None, exit_signal=9, oom_kills=1))
    assert killed is not None and killed.cause == "out-of-memory"
    device = diagnose(runtimes()["llama.cpp"], log("llama-cuda-out-of-memory"), limited, devices=GPU)
    assert device is not None and (device.cause, device.device) == ("out-of-memory", "gpu0")


@pytest.mark.parametrize("runtime", sorted(runtimes()))
@pytest.mark.parametrize(
    "line",
    [
        "libgomp: Thread creation failed: Resource temporarily unavailable",
        "terminate called after throwing an instance of 'std::system_error'\n"
        "  what():  Resource temporarily unavailable",
        "RuntimeError: can't start new thread",
        "OpenBLAS blas_thread_init: pthread_create failed for thread 1 of 2: Resource temporarily unavailable",
    ],
)
def test_threads_that_are_refused_are_a_limit_whatever_the_runtime(runtime: str, line: str) -> None:
    found = diagnose(runtimes()[runtime], line.splitlines(), Ended(exit_signal=6))
    assert found is not None
    assert (found.cause, found.code) == ("process-limit", "thread-limit")
    assert any("hread" in e or "Resource temporarily unavailable" in e for e in found.evidence)
