"""vLLM for real, under the supervisor: it starts, answers, asks for its key, takes the memory predicted, and ends."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from advisor.backends.base import ServeRequest
from advisor.backends.registry import runtime
from advisor.backends.vllm.kernels import chosen_kernels, kernel_finding
from advisor.cost.memory import memory
from advisor.deploy.manager import Deployments
from advisor.deploy.process_table import SERVER_MARK, marked
from advisor.deploy.spec import LaunchSpec
from advisor.execute import envs
from advisor.execute.proc import RUNNERS
from advisor.facts.plan import Settings
from advisor.facts.results import Deployment
from advisor.model.resolve import resolve
from advisor.settings import server_environment
from tests.support import checkpoints, edit_checkpoint, shapes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
VLLM = runtime("vllm")
PORT = 18471


def ask(path: str, key: str | None, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    head = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", data=data, headers=head)
    try:
        with urllib.request.urlopen(request, timeout=300) as reply:
            raw = reply.read()
            return reply.status, json.loads(raw) if raw else None
    except urllib.error.HTTPError as e:
        return e.code, None


def resident(folder: Path) -> int:
    """Bytes of all processes that carry the deployment's mark: each page shared by n of them counts for 1/n."""
    uuid = json.loads((folder / "run.json").read_bytes())["uuid"]
    found = 0
    for p in marked(SERVER_MARK, uuid):
        for line in Path(f"/proc/{p.pid}/smaps_rollup").read_text().splitlines():
            found += int(line.split()[1]) * 1024 if line.startswith("Pss:") else 0
    return found


def served(python: str, artifact: Path, deployments: Deployments, settings: Settings, **what: Any) -> Deployment:
    key = deployments.key_file("trial")
    command = VLLM.serve(
        ServeRequest(
            settings=settings,
            model_path=str(artifact),
            model_name="m",
            host="127.0.0.1",
            port=PORT,
            python=python,
            runner=str(RUNNERS / (VLLM.runner or "")),
            api_key_file=str(key),
            **what,
        )
    )
    assert key.read_text().strip() not in " ".join((*command.argv, *command.env.values()))
    return deployments.launch(
        LaunchSpec(
            name="trial",
            plan_id="p-000000",
            model="m",
            artifact=str(artifact),
            runtime="vllm",
            argv=command.argv,
            env={**server_environment(), **command.env},
            port=PORT,
            port_explicit=True,
            health_path=VLLM.health_path,
            ready_timeout_s=900.0,
            api_key_file=str(key),
        ),
        ready=VLLM.ready,
    )


def tried(python: str, artifact: Path, model: Path, root: Path, method: str, fmt: str) -> None:
    """Serve ``artifact`` made of ``model`` and look at all that a deployment promises."""
    settings = Settings(context=1024, parallel=2, threads=2, batch=1024, load_mode=None)
    from advisor.model.tensors import computed

    facts = resolve(str(model))
    expected = memory(
        facts, computed(facts), method=method, fmt=fmt, runtime="vllm", settings=settings,
        machine=shapes.machine(), devices=("host",),
    )  # fmt: skip
    deployments = Deployments(root)
    kv = int(expected.kv_cache.value)
    try:
        d = served(python, artifact, deployments, settings, method=method, format=fmt, device="cpu", kv_cache_bytes=kv)
        assert d.state == "ready"
        key = deployments.key_file("trial").read_text().strip()
        chat = {"model": "m", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4}
        assert ask("/v1/chat/completions", None, chat)[0] == 401
        assert ask("/invocations", "wrong", chat)[0] == 401
        assert ask("/metrics", None)[0] == 401
        status, reply = ask("/v1/chat/completions", key, chat)
        assert status == 200 and reply["choices"][0]["message"]["content"]
        full = {"model": "m", "prompt": [(i * 37) % 40000 + 100 for i in range(500)], "max_tokens": 2}
        assert ask("/v1/completions", key, full)[0] == 200
        taken = resident(deployments.folder("trial"))
        assert taken == pytest.approx(expected.total.value, rel=0.08)
        log = "\n".join(deployments.logs("trial", 5000))
        assert kernel_finding(method, fmt, log, device="cpu") is None
        assert bool(chosen_kernels(log)) == (method != "none")
        assert key not in log and "Say hello" not in log
        uuid = json.loads((deployments.folder("trial") / "run.json").read_bytes())["uuid"]
        assert len(marked(SERVER_MARK, uuid)) >= 3, "server, engine and worker carry the mark"
    finally:
        deployments.stop("trial")
    assert marked(SERVER_MARK, uuid) == []


def test_sixteen_bits(shared_home: Path, tmp_path: Path) -> None:
    python = envs.ensure("vllm", settings=checkpoints.settings_of(shared_home)).python
    two = checkpoints.two_layers(shared_home, tmp_path / "two")
    tried(python, two, two, tmp_path / "a", "none", "bf16")


@pytest.mark.long
def test_eight_bits(shared_home: Path, tmp_path: Path) -> None:
    python = envs.ensure("vllm", settings=checkpoints.settings_of(shared_home)).python
    two = checkpoints.two_layers(shared_home, tmp_path / "two")
    eight = edit_checkpoint.to_int8(two, tmp_path / "eight")
    tried(python, eight, two, tmp_path / "b", "w8a8", "w8a8")
