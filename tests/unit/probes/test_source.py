"""The live source in front of files and drivers that misbehave; bundles that reach outside of themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from advisor.errors import AdvisorError
from advisor.probes.bundle import BundleSource
from advisor.probes.detect import detect
from advisor.probes.source import MAX_TEXT_BYTES, LiveSource
from tests.unit.probes.fake import MACHINES, FakeSource


def helper(folder: Path, body: str) -> LiveSource:
    path = folder / "ask.py"
    path.write_text(body)
    return LiveSource(helper=path)


def test_a_driver_that_hangs_is_given_up_and_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    source = helper(
        tmp_path, f"import os, time\nopen({str(pid_file)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    )
    reply = source.ask("nvml", 3.0)
    assert reply["error"]["code"] == "deadline"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_a_hanging_driver_leaves_the_machine_usable_without_the_device(tmp_path: Path) -> None:
    hanging = helper(tmp_path, "import time\ntime.sleep(600)\n")

    class Hanging(FakeSource):
        def ask(self, question: str, deadline_s: float, /) -> dict[str, Any]:
            return hanging.ask(question, deadline_s)

    machine, warnings = detect(Hanging(present=("/dev/nvidiactl",)), deadline_s=0.2)
    assert machine.devices[0].unusable == "the NVIDIA driver does not answer within 0.2 s"
    assert machine.host.memory.total_bytes > 0
    assert [w.code for w in warnings] == ["device-unusable"]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "raise SystemExit(3)",
        "print('not json')",
        "print('[1, 2]')",
        "import os; os.kill(os.getpid(), 11)",
        "import sys; sys.stdout.buffer.write(b'\\xff' * 3_000_000)",
        "print('[' * 100000)",
    ],
)
def test_a_helper_without_an_answer(tmp_path: Path, body: str) -> None:
    assert helper(tmp_path, body).ask("nvml", 20.0)["error"]["code"] == "no-answer"


def test_an_answer_is_passed_on(tmp_path: Path) -> None:
    source = helper(tmp_path, 'import sys\nprint(\'{"devices": [], "word": "%s"}\' % sys.argv[1])')
    assert source.ask("nvml", 20.0) == {"devices": [], "word": "nvml"}


def test_the_real_helper_ends_with_json_whether_there_is_a_driver_or_not() -> None:
    reply = LiveSource().ask("nvml", 20.0)
    assert isinstance(reply.get("devices"), list) or isinstance(reply["error"]["code"], str)


def test_py_cpuinfo_answers_through_the_helper() -> None:
    reply = LiveSource().ask("cpuinfo", 60.0)
    assert reply is not None
    assert reply["arch_string_raw"] == os.uname().machine


def test_files_that_are_missing_folders_pipes_or_endless(tmp_path: Path) -> None:
    source = LiveSource()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "bytes").write_bytes(b"a\xffb")
    assert source.text(str(tmp_path / "missing")) is None
    assert source.text(str(tmp_path)) is None
    assert source.text(str(tmp_path / "pipe")) == ""
    assert source.text("a\0b") is None
    assert source.text(str(tmp_path / "bytes")) == "a\ufffdb"
    assert len(source.text("/dev/zero") or "") == MAX_TEXT_BYTES
    assert source.names(str(tmp_path / "missing")) is None
    assert source.names(str(tmp_path)) == ("bytes", "pipe")


def test_probing_this_machine_loads_no_driver_binding_and_starts_nothing() -> None:
    code = (
        "import sys, json\n"
        "from advisor.probes.detect import detect\n"
        "from advisor.probes.source import LiveSource\n"
        "class NoDevice(LiveSource):\n"
        "    def exists(self, path, /): return False if path.startswith('/dev/') else super().exists(path)\n"
        "    def names(self, path, /): return ()\n"
        "    def ask(self, *args): raise AssertionError(args)\n"
        "machine = detect(NoDevice()).machine\n"
        "assert machine.host.memory.total_bytes > 1 << 20, machine\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=MACHINES.parents[2]
    )
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"pynvml", "cpuinfo", "subprocess", "yaml", "multiprocessing", "asyncio", "click", "rich"}


def bundle(folder: Path, **changes: object) -> Path:
    document = {
        "schema": "advisor/machine-bundle/v1",
        "provenance": "hand-made",
        "made_from": "a test",
        "platform": {"system": "Linux", "machine": "x86_64"},
    } | changes
    (folder / "files").mkdir(exist_ok=True)
    (folder / "bundle.json").write_text(json.dumps(document))
    return folder


def test_a_bundle_does_not_reach_outside_of_itself(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "b"
    folder.mkdir()
    source = BundleSource(bundle(folder))
    (folder / "files" / "link").symlink_to(tmp_path / "secret")
    (folder / "files" / "inner").write_text("inner")
    (folder / "files" / "loop").symlink_to(folder / "files" / "loop")
    assert source.text("/link") is None
    assert source.text("/../../secret") is None
    assert source.text("/files/../../../secret") is None
    assert source.text("/loop") is None
    assert source.text("/inner") == "inner"
    assert source.text("/") is None
    assert source.text("/proc/cpuinfo") is None
    assert not source.exists("/dev/null")
    assert source.names("/proc") is None
    assert source.affinity() is None
    assert source.ask("nvml", 1.0)["error"]["code"] == "no-answer"


@pytest.mark.parametrize(
    "changes",
    [{"schema": "advisor/machine-bundle/v9"}, {"provenance": "guessed"}, {"unknown": 1}, {"platform": 3}],
)
def test_a_bundle_of_another_kind_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(AdvisorError) as caught:
        BundleSource(bundle(tmp_path, **changes))
    assert caught.value.code == "bad-machine-file"


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdvisorError) as caught:
        BundleSource(tmp_path)
    assert caught.value.code == "bad-machine-file"
