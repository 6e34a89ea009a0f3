"""transformers really serves: 16 bits, NF4, INT8 and HQQ, saved and at load, launched by the deployments manager."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from advisor.backends.base import ServeRequest
from advisor.backends.registry import runtime
from advisor.deploy import client, ports
from advisor.deploy.manager import Deployments
from advisor.deploy.spec import LaunchSpec
from advisor.errors import AdvisorError
from advisor.execute.envs import ensure
from advisor.execute.proc import RUNNERS
from advisor.facts.plan import Settings
from advisor.facts.recipe import Recipe
from advisor.facts.results import Deployment
from advisor.settings import server_environment
from tests.support import checkpoints

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

NF4 = Recipe(method="nf4", format="nf4", quantizer="bitsandbytes", bits=4, double_quant=True, at_load=True)
INT8 = Recipe(method="int8", format="int8", quantizer="bitsandbytes", bits=8, at_load=True)
HQQ = Recipe(method="hqq", format="hqq4-g64", quantizer="hqq", bits=4, group_size=64, at_load=True)
Serve = Callable[..., Deployment]


@pytest.fixture(scope="module")
def python(shared_home: Path) -> str:
    """The interpreter of the environment."""
    return ensure("transformers", settings=checkpoints.settings_of(shared_home)).python


@pytest.fixture(scope="module")
def two(shared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of the real model."""
    return checkpoints.two_layers(shared_home, tmp_path_factory.mktemp("two") / "ckpt")


@pytest.fixture
def deployments(tmp_path: Path) -> Iterator[Deployments]:
    found = Deployments(tmp_path / "deployments")
    yield found
    for d in found.list():
        found.stop(d.name)


@pytest.fixture
def serve(deployments: Deployments, python: str) -> Serve:
    """Launch a checkpoint as the product does."""
    backend = runtime("transformers")

    def launch(model: Path, *, recipe: Recipe | None = None, key: bool = False, context: int = 1024) -> Deployment:
        port = ports.choose("127.0.0.1", 21000 + os.getpid() % 9000, explicit=False)
        key_file = str(deployments.key_file("one")) if key else None
        command = backend.serve(
            ServeRequest(
                settings=Settings(context=context, threads=2),
                model_path=str(model),
                model_name="smol",
                host="127.0.0.1",
                port=port,
                python=python,
                runner=str(RUNNERS / str(backend.runner)),
                api_key_file=key_file,
                method=recipe.method if recipe else "none",
                format=recipe.format if recipe else "bf16",
                recipe=recipe,
            )
        )
        spec = LaunchSpec(
            name="one",
            plan_id="p-1",
            model="smol",
            artifact=str(model),
            runtime="transformers",
            argv=command.argv,
            env={**server_environment(), **command.env},
            port=port,
            health_path=backend.health_path,
            ready_timeout_s=900,
            api_key_file=key_file,
        )
        return deployments.launch(spec, ready=backend.ready)

    return launch


def loaded(d: Deployment) -> dict[str, Any]:
    """What the server says that it has loaded."""
    with urllib.request.urlopen(f"{d.openai_base_url}/models", timeout=30) as reply:
        (model,) = json.loads(reply.read())["data"]
    report: dict[str, Any] = model["loaded"]
    return report


def test_16_bits_with_a_key_through_the_openai_client(two: Path, serve: Serve, deployments: Deployments) -> None:
    from openai import AuthenticationError, BadRequestError, OpenAI

    d = serve(two, key=True, context=256)
    key = Path(str(d.api_key_file)).read_text().strip()
    assert d.pid is not None
    shown = subprocess.run(["ps", "eww", "-o", "args=", "-p", str(d.pid)], capture_output=True, text=True, check=True)
    assert "serve_transformers.py" in shown.stdout
    assert key not in shown.stdout, "in the argument list or the environment"
    messages: list[Any] = [{"role": "user", "content": "Say hello."}]
    with OpenAI(base_url=d.openai_base_url, api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(AuthenticationError):
            stranger.chat.completions.create(model="smol", messages=messages)
        with pytest.raises(AuthenticationError):
            stranger.models.list()
    with OpenAI(base_url=d.openai_base_url, api_key=key, max_retries=0) as own:
        (model,) = own.models.list()
        assert model.id == "smol"
        asked: dict[str, Any] = {"model": "smol", "messages": messages, "max_tokens": 8, "temperature": 0}
        whole = own.chat.completions.create(**asked)
        assert whole.usage is not None
        assert 1 <= whole.usage.completion_tokens <= 8
        stream = list(own.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        text = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
        assert text == whole.choices[0].message.content
        assert stream[-1].usage == whole.usage
        drawn = [own.chat.completions.create(**{**asked, "temperature": 1.0}, seed=7) for _ in range(2)]
        assert drawn[0].choices[0].message.content == drawn[1].choices[0].message.content
        with pytest.raises(BadRequestError, match="context holds 256"):
            own.completions.create(model="smol", prompt="word " * 300)
    deployments.stop("one")
    with pytest.raises(ProcessLookupError):
        os.kill(d.pid, 0)


def test_nf4_of_the_whole_model_answers_a_question(shared_home: Path, serve: Serve) -> None:
    d = serve(checkpoints.whole(shared_home), recipe=NF4)
    report = loaded(d)
    assert report["quantized"] == 210
    assert report["kept"] == ["lm_head"]
    assert (report["dtype"], report["stored"]) == ("bfloat16", None)
    assert report["quantization"] == {
        "method": "nf4",
        "bits": 4,
        "group_size": 64,
        "double_quant": True,
        "compute": "bfloat16",
    }
    # 4.127 bits a weight of 106.2 million, and the embeddings in 16 bits.
    assert report["bytes"] == pytest.approx(106_168_320 * 4.127 / 8 + 28_311_552 * 2, rel=0.01)
    assert "Paris" in client.smoke(d.openai_base_url, "smol").text


@pytest.mark.parametrize(
    ("recipe", "found"),
    [
        (INT8, {"method": "int8", "bits": 8, "stored": "int8"}),
        (HQQ, {"method": "hqq", "bits": 4, "group_size": 64}),
    ],
    ids=["int8", "hqq"],
)
def test_quantized_at_load(two: Path, serve: Serve, recipe: Recipe, found: dict[str, Any]) -> None:
    d = serve(two, recipe=recipe)
    report = loaded(d)
    assert (report["quantized"], report["kept"]) == (14, ["lm_head"])
    assert found.items() <= report["quantization"].items()
    answer = client.completion(d.openai_base_url, "smol", "The capital of France", max_tokens=6)
    assert answer.completion_tokens is not None
    assert 1 <= answer.completion_tokens <= 6


def test_what_cannot_be_loaded_ends_with_a_named_failure(two: Path, serve: Serve, tmp_path: Path) -> None:
    strange = tmp_path / "strange"
    strange.mkdir()
    for file in two.iterdir():
        (strange / file.name).symlink_to(file)
    (strange / "config.json").unlink()
    config = json.loads((two / "config.json").read_text())
    (strange / "config.json").write_text(json.dumps({**config, "model_type": "zeta5", "architectures": ["Zeta5"]}))
    with pytest.raises(AdvisorError) as e:
        serve(strange)
    assert e.value.code == "server-failed"
    found = runtime("transformers").diagnose("\n".join(e.value.context))
    assert found is not None
    assert found.code == "unknown-architecture"
