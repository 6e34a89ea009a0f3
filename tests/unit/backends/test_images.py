"""Container images: pinned, sourced, and served with the options of the backends."""

from __future__ import annotations

import inspect
import re
from itertools import pairwise

import pytest

from advisor.backends import images
from advisor.backends.base import ServeRequest
from advisor.backends.llama import commands
from advisor.backends.pins import pins
from advisor.errors import AdvisorError
from advisor.facts.plan import Settings
from tests.unit.backends.builds import NEW

RUNTIMES = images.runtimes()


def request(settings: Settings, **changes: object) -> ServeRequest:
    fields: dict[str, object] = {
        "settings": settings,
        "model_path": "/models/model.gguf",
        "model_name": "m",
        "host": "127.0.0.1",
        "port": 8080,
        "python": "",
        "api_key_file": "/run/secrets/api-key",
    }
    return ServeRequest(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_image_is_pinned_and_says_who_names_it(runtime: str) -> None:
    known = images.images(runtime, "cpu")
    for device, pin in known.images.items():
        assert device in ("cpu", "nvidia", "amd", "intel")
        repository, _, tag = pin.image.rpartition(":")
        assert "/" in repository and known.version in tag and "latest" not in tag
        assert len(pin.source) > 20
    assert known.probe[-1].count("{port}") == 1 and known.probe_source and known.source
    assert (known.key == "variable") == (known.key_variable is not None)


def test_the_versions_are_those_of_the_managed_environments() -> None:
    assert images.images("vllm", "nvidia").version == pins("vllm", "cuda").version_of("vllm")


def test_the_options_are_those_of_the_recorded_help() -> None:
    known = images.images("llama.cpp", "cpu")
    assert len(known.options) > 30
    for name, option in known.options.items():
        assert NEW.options[name] == option, name
    source = inspect.getsource(commands).partition("# -- tools")[0]
    asked = set(re.findall(r'"(--[a-z][a-z-]*)"', source))
    assert {n for n in asked if n in NEW.options} == set(known.options)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(context=8192, threads=4),
        Settings(context=8192, gpu_layers=20, cpu_moe_layers=3, kv_type="q8_0", load_mode="mlock"),
        Settings(context=8192, gpu_layers=-1, tensor_split=(1.0, 2.0), parallel=4),
    ],
)
def test_llama_cpp_is_started_as_outside_but_for_paths_and_address(settings: Settings) -> None:
    known = images.images("llama.cpp", "nvidia")
    made = images.contained(known, request(settings))
    outside = commands.serve(
        settings,
        NEW,
        model_path="/models/model.gguf",
        model_name="m",
        host=images.EVERYWHERE,
        port=8080,
        api_key_file="/run/secrets/api-key",
    )
    assert made.arguments == outside.argv[1:]
    assert made.env == outside.env


def test_vllm_is_given_the_plan_and_no_key_in_its_arguments() -> None:
    known = images.images("vllm", "nvidia")
    settings = Settings(context=16384, parallel=4, tensor_parallel=2, gpu_memory_utilization=0.8)
    made = images.contained(
        known, request(settings, model_path="/models/model", method="awq", format="w4a16-g128", device="nvidia")
    )
    assert made.arguments[0] == "/models/model"
    options = dict(pairwise(made.arguments))
    assert options["--tensor-parallel-size"] == "2" and options["--gpu-memory-utilization"] == "0.8"
    assert options["--host"] == images.EVERYWHERE and "--api-key" not in made.arguments
    assert made.env["HOME"] == "/tmp" and made.env["HF_HUB_OFFLINE"] == "1"


def test_what_a_build_or_an_image_lacks_is_said() -> None:
    with pytest.raises(AdvisorError) as e:
        images.images("transformers", "cpu")
    assert e.value.code == "cannot-export"
    with pytest.raises(AdvisorError) as e:
        images.images("vllm", "apple")
    assert "apple" in e.value.message and e.value.hint
    with pytest.raises(AdvisorError) as e:
        images.contained(images.images("llama.cpp", "cpu"), request(Settings(context=8192, kv_type="fp8")))
    assert e.value.code == "runtime-unfit"
