"""How commands that lacked memory or met a limit are told: the cause with its evidence, or none where there is none."""

from __future__ import annotations

import errno
import signal
import sys
from pathlib import Path

import pytest

from advisor.errors import AdvisorError
from advisor.execute import failing, proc
from advisor.execute.envs import Env
from advisor.execute.proc import Completed
from advisor.probes import group_memory, process_limits

MIB = 1 << 20
HERE = Env(name="here", path=sys.prefix, python=sys.executable)


@pytest.fixture(autouse=True)
def no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose processes have no limit of addresses, in a group of 300 MiB."""
    monkeypatch.setattr(process_limits, "addresses_in_the_way", lambda: None)
    level = group_memory.Level("cgroup v2 memory.max", 0, 300 * MIB)
    monkeypatch.setattr(group_memory, "tightest_group", lambda: level)


def done(code: int = 1, *lines: str, kills: int = 0, peak: int | None = None) -> Completed:
    killed = code == 137 and kills > 0
    return Completed(code, 1.0, lines[-2:], Path("/logs/x.log"), killed, kills, peak, lines)


def test_a_kill_that_the_kernel_counted_says_what_was_had_and_what_there_is() -> None:
    error = failing.failure(done(137, "loading", kills=1, peak=280 * MIB), "/env/bin/convert.py", step="convert")
    assert (error.code, error.exit_code) == ("out-of-memory", 1)
    assert error.message == "convert: The kernel killed convert.py because memory ran out."
    found = error.data["diagnosis"]
    assert (found["cause"], found["when"], found["code"], found["device"]) == (
        "out-of-memory", "making", "oom-kill", "host",
    )  # fmt: skip
    assert (found["had_bytes"], found["limit_bytes"], found["oom_kills"]) == (280 * MIB, 300 * MIB, 1)
    text = "\n".join(error.context)
    assert "it had 280 MiB resident at most" in text and "control group was 300 MiB" in text and "/logs/x.log" in text


@pytest.mark.parametrize(
    ("line", "device", "wanted"),
    [
        ("RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
         "tried to allocate 113246208 bytes. Error code 12 (Cannot allocate memory)", "host", 113246208),
        ("terminate called after throwing an instance of 'std::bad_alloc'", "host", None),
        ("MemoryError: Unable to allocate 96.0 MiB for an array with shape (49152, 512)", "host", None),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 448.00 MiB. GPU 0 has a total capacity of",
         "gpu0", 448 * MIB),
    ],
)  # fmt: skip
def test_what_libraries_say(line: str, device: str, wanted: int | None) -> None:
    lines = ("starting", line, *("frame #7: c10::something" for _ in range(40)))
    error = failing.failure(done(1, *lines), "x", step="quantize", code="quantizer-failed")
    assert error.code == "out-of-memory"
    found = error.data["diagnosis"]
    assert (found["device"], found["wanted_bytes"]) == (device, wanted)
    assert any(line[:100] in x for x in error.context)


def test_what_a_runner_reports_is_read_for_its_cause() -> None:
    said = {"code": "quantizer-failed", "message": "RuntimeError: DefaultCPUAllocator: can't allocate memory"}
    assert failing.reported(done(), said, "x.py", step="quantize", code="step-failed").code == "out-of-memory"
    # An artifact that could not be loaded for want of memory is sound: it must not be withdrawn.
    said = {"code": "artifact-invalid", "message": "llama.cpp does not load it.", "context": ["std::bad_alloc"]}
    assert failing.reported(done(), said, "x.py", step="validate", code="artifact-invalid").code == "out-of-memory"
    said = {"code": "artifact-invalid", "message": "The file is cut short."}
    assert failing.reported(done(), said, "x.py", step="validate", code="artifact-invalid").code == "artifact-invalid"
    said = {"code": "bad-option", "message": "The text of MemoryError has 3 tokens."}
    assert failing.reported(done(), said, "x.py", step="verify", code="step-failed").code == "bad-option"


@pytest.mark.parametrize("line", [
    "SafetensorError: Error while serializing: I/O error: No space left on device (os error 28)",
    "OSError: [Errno 122] Disk quota exceeded",
])  # fmt: skip
def test_a_full_disk_in_a_librarys_own_words(line: str) -> None:
    said = {"code": "quantizer-failed", "message": line}
    for error in (
        failing.reported(done(), said, "restore.py", step="restore", code="quantizer-failed"),
        failing.failure(done(1, "writing", line, "bye"), "x", step="restore", code="quantizer-failed"),
    ):
        assert (error.code, error.exit_code, error.hint) == ("disk-full", 5, "advisor cache gc")
        assert line in error.context


def test_a_child_of_a_runner_is_out_of_memory_only_where_the_kernel_counted_it() -> None:
    said = {"code": "out-of-memory", "message": "The quantizer was ended by SIGKILL.", "context": ["[ 3/272] x"]}

    def told(kills: int) -> AdvisorError:
        return failing.reported(done(kills=kills), said, "quantize.py", step="quantize", code="quantizer-failed")

    assert (told(1).code, told(1).data["diagnosis"]["code"]) == ("out-of-memory", "oom-kill")
    assert told(0).code == "quantizer-failed" and "diagnosis" not in told(0).data


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_who_ends_a_program_says_nothing_about_what_it_read(number: int) -> None:
    error = failing.failure(done(128 + number), "validate.py", step="validate", code="artifact-invalid")
    assert error.code == "step-failed"
    crash = failing.failure(done(128 + signal.SIGSEGV), "validate.py", step="validate", code="artifact-invalid")
    assert crash.code == "artifact-invalid"


def test_threads_that_are_refused_name_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = process_limits.Bound("tasks", 20, "20 tasks in /g", "echo max | sudo tee /g/pids.max")
    monkeypatch.setattr(process_limits, "met", lambda code: (bound,))
    line = "libgomp: Thread creation failed: Resource temporarily unavailable"
    error = failing.failure(done(1, line), "validate.py", step="validate")
    assert (error.code, error.exit_code, error.hint) == ("process-limit", 5, bound.lift)
    assert error.data["diagnosis"]["code"] == "thread-limit"
    assert "limit: 20 tasks in /g" in error.context


def test_a_program_that_the_system_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = process_limits.Bound("processes", 20, "20 processes", "ulimit -S -u unlimited")
    monkeypatch.setattr(process_limits, "met", lambda code: (bound,))

    def no(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.Popen", no)
    with pytest.raises(AdvisorError) as e:
        proc.run([sys.executable], log=tmp_path / "l", step="convert")
    assert (e.value.code, e.value.hint) == ("process-limit", bound.lift)
    assert "limit: 20 processes" in e.value.context


def test_refused_requests_under_a_limit_of_addresses_are_no_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_limits, "addresses_in_the_way", lambda: 900 * MIB)
    error = failing.failure(done(1, "std::bad_alloc"), "x", step="convert")
    assert (error.code, error.data["diagnosis"]["code"]) == ("process-limit", "address-space")
    assert "900 MiB on addresses" in error.message
    killed = failing.failure(done(137, kills=1), "x", step="convert")
    assert killed.code == "out-of-memory"


def test_the_most_that_a_command_had_is_known(tmp_path: Path) -> None:
    code = "import sys; x = bytearray(96 << 20); x[::4096] = b'1' * len(x[::4096]); print(len(x))"
    found = proc.run([sys.executable, "-I", "-c", code], log=tmp_path / "l", step="s")
    assert found.peak_bytes is not None and 96 * MIB < found.peak_bytes < 400 * MIB


def test_a_real_limit_of_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that asks for more than its shell lets it: Python's own words."""
    monkeypatch.setattr(process_limits, "addresses_in_the_way", lambda: 256 * MIB)
    code = "import resource; resource.setrlimit(resource.RLIMIT_AS, (256 << 20,) * 2); bytearray(1 << 30)"
    with pytest.raises(AdvisorError) as e:
        proc.run([sys.executable, "-I", "-c", code], log=tmp_path / "l", step="convert")
    assert e.value.code == "process-limit"
    assert any("MemoryError" in line for line in e.value.context)
