from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from advisor.errors import AdvisorError
from advisor.events import Cancel, Event
from advisor.execute import owner, proc
from advisor.execute.envs import Env
from advisor.execute.talk import Talk
from advisor.probes import group_memory

HERE = Env(name="here", path=sys.prefix, python=sys.executable)


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-c", code]


def gone(pid: int, seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while owner.start_time(pid) is not None and time.monotonic() < until:
        time.sleep(0.02)
    return owner.start_time(pid) is None


def wait_for(path: Path, seconds: float = 20) -> str:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if path.exists() and path.read_text().endswith("\n"):
            return path.read_text().strip()
        time.sleep(0.02)
    raise AssertionError(f"{path} was not written")


def test_output_goes_to_the_log_and_lines_are_heard(tmp_path: Path) -> None:
    lines: list[str] = []
    code = "import sys; print('one'); print('\\x1b[31mtwo\\x1b[0m', file=sys.stderr); print('a\\rb', end='')"
    done = proc.run(python(code), log=tmp_path / "logs" / "x.log", step="s", on_line=lines.append)
    assert done.returncode == 0
    assert sorted(lines) == ["a", "b", "one", "two"]
    assert b"\x1b[31mtwo" in (tmp_path / "logs" / "x.log").read_bytes()


def test_environment_is_scrubbed_and_threads_are_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("HF_TOKEN", "canary")
    out = tmp_path / "env.json"
    code = f"import json, os; json.dump(dict(os.environ), open({str(out)!r}, 'w'))"
    proc.run(python(code), log=tmp_path / "l", step="s", env={"EXTRA": "1"}, threads=3)
    seen = json.loads(out.read_text())
    assert seen["EXTRA"] == "1"
    assert seen["OMP_NUM_THREADS"] == seen["MKL_NUM_THREADS"] == "3"
    assert not {"PYTHONPATH", "LD_PRELOAD", "HF_TOKEN"} & seen.keys()


def test_request_is_read_from_standard_input(tmp_path: Path) -> None:
    big = b"x" * 3_000_000
    lines: list[str] = []
    proc.run(
        python("import sys; print(len(sys.stdin.buffer.read()))"),
        log=tmp_path / "l",
        step="s",
        request=big,
        on_line=lines.append,
    )
    assert lines == ["3000000"]


def test_failure_carries_status_and_log_tail(tmp_path: Path) -> None:
    with pytest.raises(AdvisorError) as e:
        proc.run(
            python("print('why'); raise SystemExit(7)"), log=tmp_path / "l", step="quantize", code="quantizer-failed"
        )
    assert e.value.code == "quantizer-failed"
    assert e.value.data["backend_exit"] == 7
    assert "why" in e.value.context
    assert "exit status 7" in e.value.message


@pytest.mark.parametrize(("number", "word"), [(signal.SIGSEGV, "SIGSEGV"), (signal.SIGKILL, "memory ran out")])
def test_signals_are_named(tmp_path: Path, number: int, word: str) -> None:
    with pytest.raises(AdvisorError) as e:
        proc.run(python(f"import os; os.kill(os.getpid(), {int(number)})"), log=tmp_path / "l", step="s")
    assert e.value.code == "step-failed"
    assert e.value.data["backend_exit"] == 128 + number
    assert word in e.value.message


def test_kill_with_evidence_is_out_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc.Kills, "since", lambda _: 1)
    with pytest.raises(AdvisorError) as e:
        proc.run(python("import os; os.kill(os.getpid(), 9)"), log=tmp_path / "l", step="s")
    assert e.value.code == "out-of-memory"


def test_oom_counter_is_read_from_lines_of_name_and_number(tmp_path: Path) -> None:
    events = tmp_path / "memory.events"
    events.write_text("low 0\nhigh 2\noom 5\noom_kill 4\nbroken\n")
    assert group_memory._counter(events, "oom_kill") == 4
    assert group_memory._counter(events, "absent") is None
    assert group_memory._counter(tmp_path / "none", "oom_kill") is None
    assert group_memory.Kills().since() >= 0


def test_missing_program(tmp_path: Path) -> None:
    with pytest.raises(AdvisorError) as e:
        proc.run([tmp_path / "nothing"], log=tmp_path / "l", step="s")
    assert e.value.code == "tool-missing"
    with pytest.raises(AdvisorError) as e:
        proc.run(["a\0b"], log=tmp_path / "l", step="s")
    assert e.value.code == "bad-option"


SPAWNER = """
import os, signal, subprocess, sys, time
deaf = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"],
    stdout=subprocess.PIPE)
deaf.stdout.readline()
with open({out!r}, "w") as f:
    f.write(f"{{os.getpid()}} {{deaf.pid}}\\n")
time.sleep(600)
"""


def test_cancel_ends_the_whole_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "_GRACE_S", 0.3)
    out, cancel = tmp_path / "pids", Cancel()
    errors: list[AdvisorError] = []

    def work() -> None:
        try:
            proc.run(python(SPAWNER.format(out=str(out))), log=tmp_path / "l", step="s", cancel=cancel)
        except AdvisorError as e:
            errors.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    pids = [int(p) for p in wait_for(out).split()]
    cancel.set()
    thread.join()
    assert [e.code for e in errors] == ["interrupted"]
    assert all(gone(p) for p in pids)


def test_timeout_ends_the_group_and_is_named(tmp_path: Path) -> None:
    with pytest.raises(AdvisorError) as e:
        proc.run(python("import time; time.sleep(600)"), log=tmp_path / "l", step="s", timeout_s=0.3)
    assert e.value.code == "step-failed"
    assert "longer than 0.3 s" in e.value.message


def test_closing_its_output_does_not_end_the_wait(tmp_path: Path) -> None:
    out = tmp_path / "late"
    code = f"import os, time; os.close(1); os.close(2); time.sleep(0.5); open({str(out)!r}, 'w').write('x')"
    assert proc.run(python(code), log=tmp_path / "l", step="s").returncode == 0
    assert out.exists()


def test_nothing_outlives_a_killed_advisor(tmp_path: Path) -> None:
    out = tmp_path / "pids"
    parent = (
        "import sys; from pathlib import Path; from advisor.execute import proc; "
        f"proc.run([sys.executable, '-I', '-c', {SPAWNER.format(out=str(out))!r}], "
        f"log=Path({str(tmp_path / 'l')!r}), step='s')"
    )
    with subprocess.Popen([sys.executable, "-c", parent], cwd=Path(proc.__file__).parents[2]) as advisor:
        pids = [int(p) for p in wait_for(out).split()]
        assert all(owner.start_time(p) for p in pids)
        os.kill(advisor.pid, signal.SIGKILL)
    assert all(gone(p) for p in pids)


def test_flood_of_output_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "_LOG_LIMIT", 100_000)
    done = proc.run(
        python("print('x' * 99 + '\\n', end='') or print('y' * 2000000); print('end')"), log=tmp_path / "l", step="s"
    )
    assert (tmp_path / "l").stat().st_size < 300_000
    assert done.tail[-1] == "end"


def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> str:
    (tmp_path / "r.py").write_text(
        "import json, os, sys\n"
        "def say(**k): os.write(3, (json.dumps(k) + '\\n').encode())\n"
        "request = json.load(sys.stdin)\n" + body
    )
    monkeypatch.setattr(proc, "RUNNERS", tmp_path)
    return "r.py"


def test_runner_progress_and_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = runner(
        tmp_path,
        monkeypatch,
        "import time\n"
        "print('to the log')\n"
        "os.write(3, b'not json\\n[1]\\n')\n"
        "for i in range(3):\n"
        "    say(type='progress', done=i, total=4, unit='chunks', message='\\x1b[1mworking')\n"
        "    time.sleep(0.05)\n"
        "say(type='result', data={'twice': request['n'] * 2})\n",
    )
    events: list[Event] = []
    data = proc.run_runner(HERE, script, {"n": 21}, step="s", reporter=events.append, log=tmp_path / "l")
    assert data == {"twice": 42}
    assert [(e.done, e.total, e.unit, e.message) for e in events] == [(i, 4, "chunks", "working") for i in range(3)]
    assert events[0].seconds_left is None
    assert events[2].seconds_left is not None
    assert events[2].seconds_left > 0
    assert (tmp_path / "l").read_text() == "to the log\n"


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (
            "say(type='error', code='artifact-invalid', message='m\\x1b[1m', context=['c'])\nsys.exit(1)",
            "artifact-invalid",
            "m",
        ),
        ("say(type='error', code='no-such-code', message='m')\nsys.exit(1)", "quantizer-failed", "m"),
        ("sys.exit(3)", "quantizer-failed", "exit status 3"),
        ("os.kill(os.getpid(), 11)", "quantizer-failed", "SIGSEGV"),
        ("pass", "quantizer-failed", "without a result"),
        ("say(type='result', data=[1])", "quantizer-failed", "without a result"),
        ("say(type='result', data={})\nsys.exit(4)", "quantizer-failed", "exit status 4"),
    ],
)
def test_runner_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, code: str, words: str) -> None:
    script = runner(tmp_path, monkeypatch, body)
    with pytest.raises(AdvisorError) as e:
        proc.run_runner(HERE, script, {}, step="quantize", log=tmp_path / "l", code="quantizer-failed")
    assert e.value.code == code
    assert words in e.value.message
    assert "\x1b" not in e.value.message


def test_time_left_starts_anew_with_another_count() -> None:
    events: list[Event] = []
    talk = Talk("s", events.append)
    for done, total, unit in ((0, 4, "chunks"), (4, 4, "chunks"), (1, 14, "prompts"), (2, None, "prompts")):
        talk.hear(json.dumps({"type": "progress", "done": done, "total": total, "unit": unit}).encode())
    assert [e.seconds_left for e in events] == [None, 0.0, None, None]
