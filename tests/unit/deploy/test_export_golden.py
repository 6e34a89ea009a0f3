"""What every format writes for usual plans, to the letter, and checked against what its system publishes."""

from __future__ import annotations

import json
import plistlib
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from advisor.deploy.export import formats
from advisor.errors import AdvisorError
from advisor.facts.plan import Settings
from tests.support import exports, samples
from tests.support.exports import CASES, GOLDEN, a_service, case

SCHEMA = Path(__file__).resolve().parents[2] / "fixtures" / "compose" / "compose-spec.json"
MADE = exports.golden()


@pytest.mark.parametrize("path", sorted(MADE), ids=lambda p: str(p.relative_to(GOLDEN)))
def test_what_is_written_is_the_golden_file(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == MADE[path]


def test_no_golden_file_is_of_something_else() -> None:
    assert {p for p in GOLDEN.rglob("*") if p.is_file()} == set(MADE)


def test_every_format_has_a_golden_file() -> None:
    assert {fmt for to in CASES.values() for fmt in to} == set(formats())


@pytest.mark.parametrize("name", [n for n, to in CASES.items() if "compose" in to])
def test_compose_keeps_its_published_schema(name: str) -> None:
    (file,) = formats()["compose"].files(case(name))
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft7Validator(schema).validate(yaml.safe_load(file.text))


def test_the_schema_refuses_what_compose_would_refuse() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    (file,) = formats()["compose"].files(case("cpu-gguf"))
    body = yaml.safe_load(file.text)
    body["services"]["smollm2"]["memory"] = "1g"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate(body)


@pytest.mark.parametrize("name", [n for n, to in CASES.items() if "launchd" in to])
def test_launchd_gets_a_property_list(name: str) -> None:
    service = case(name)
    (file,) = formats()["launchd"].files(service)
    read = plistlib.loads(file.text.encode())
    assert service.program is not None and read["ProgramArguments"] == list(service.program.argv)
    assert read.get("UserName") == service.user


def test_the_script_is_one(tmp_path: Path) -> None:
    (file,) = formats()["script"].files(case("cpu-gguf"))
    path = tmp_path / "s.sh"
    path.write_text(file.text)
    subprocess.run(["sh", "-n", str(path)], check=True)
    assert file.executable


def test_containers_are_confined_in_every_format() -> None:
    service = case("nvidia-split-gguf")
    (compose,) = formats()["compose"].files(service)
    (one,) = yaml.safe_load(compose.text)["services"].values()
    assert one["read_only"] and one["cap_drop"] == ["ALL"] and one["user"] == "1000:1000"
    assert one["volumes"][0]["read_only"] and one["ports"][0]["host_ip"] == "127.0.0.1"
    assert one["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] == [
        "GPU-5b4c0a12-0000-4000-8000-000000000001"
    ]
    (quadlet,) = formats()["quadlet"].files(service)
    settings = exports.systemd_sections(quadlet.text)["Container"]
    assert {("ReadOnly", "true"), ("DropCapability", "all"), ("NoNewPrivileges", "true")} <= set(settings)
    assert ("AddDevice", "nvidia.com/gpu=GPU-5b4c0a12-0000-4000-8000-000000000001") in settings
    manifests, _ = formats()["kubernetes"].files(service)
    _, deployment, _ = yaml.safe_load_all(manifests.text)
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    (server,) = pod["containers"]
    assert server["securityContext"]["readOnlyRootFilesystem"]
    assert server["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize("name", [n for n, to in CASES.items() if "kubernetes" in to])
def test_the_offload_settings_are_the_same_in_all_containers(name: str) -> None:
    service = case(name)
    container = service.container
    assert container is not None
    (compose,) = formats()["compose"].files(service)
    (one,) = yaml.safe_load(compose.text)["services"].values()
    whole = (*container.entrypoint, *container.arguments)
    assert tuple(exports.read_dollars([*one["entrypoint"], *one["command"]]))[-len(whole) :] == whole
    (quadlet,) = formats()["quadlet"].files(service)
    settings = dict(exports.systemd_sections(quadlet.text)["Container"])
    assert [exports.dollars(w) for w in exports.systemd_words(settings["Exec"])] == list(container.arguments)
    manifests, _ = formats()["kubernetes"].files(service)
    _, deployment, _ = yaml.safe_load_all(manifests.text)
    (server,) = deployment["spec"]["template"]["spec"]["containers"]
    assert exports.read_dollars(server["args"]) == list(container.arguments)


def test_limits_follow_the_prediction() -> None:
    mib = 1 << 20
    assert exports.limit(430 * mib, 460 * mib) == 473 * mib  # a tenth above a narrow range
    assert exports.limit(430 * mib, 900 * mib) == 900 * mib
    assert exports.limit(430 * mib, 900 * mib, 1 << 30) == 1924 * mib
    (unit,) = formats()["systemd"].files(case("cpu-gguf"))
    settings = exports.systemd_sections(unit.text)["Service"]
    assert ("MemoryMax", str(473 * mib)) in settings and ("CPUQuota", "700%") in settings
    unknown = a_service(limit_bytes=None, predicted_bytes=None, cores=None)
    for fmt in ("systemd", "quadlet", "compose", "kubernetes", "script"):
        text = formats()[fmt].files(unknown)[0].text
        assert not any(word in text for word in ("MemoryMax", "mem_limit", "--memory", "CPUQuota", "cpus"))


def test_ollama_is_refused_what_it_has_no_parameter_for() -> None:
    experts = samples.sample_plan(settings=Settings(context=8192, gpu_layers=33, cpu_moe_layers=4), devices=("gpu0",))
    with pytest.raises(AdvisorError) as e:
        formats()["modelfile"].files(a_service(plan=experts, vendor="nvidia"))
    assert e.value.code == "cannot-export" and "experts" in e.value.message
    with pytest.raises(AdvisorError) as e:
        formats()["modelfile"].files(a_service(artifact="/srv/ends in a space "))
    assert e.value.code == "cannot-export"


def test_steps_make_the_key_and_name_it_nowhere_else() -> None:
    for fmt in set(formats()) - {"modelfile", "script"}:
        steps = formats()[fmt].steps(a_service())
        assert any("/dev/urandom" in s for s in steps), fmt
    assert formats()["script"].steps(a_service(made_by="advisor quantize X"))[0] == "advisor quantize X"
    assert "sudo chown 65532:65532" in " ".join(
        formats()["compose"].steps(a_service()._replace(container=a_service().container._replace(uid=65532, gid=65532)))  # type: ignore[union-attr]
    )
    assert any("ollama-advisor.conf" in s for s in formats()["modelfile"].steps(case("slots-gguf")))
