"""Services to export, the systems' own rules for reading what was written, and the golden files.

``python -m tests.support.exports`` writes the golden files anew.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from advisor._version import __version__
from advisor.backends import images
from advisor.backends.base import ServeRequest
from advisor.backends.registry import runtimes
from advisor.deploy.export import formats
from advisor.deploy.export.base import KEY, PORT, Container, Program, Service, limit
from advisor.facts.plan import Settings
from tests.support import samples

GOLDEN: Final = Path(__file__).resolve().parents[1] / "golden" / "exports"
MIB: Final = 1 << 20
# name -> formats it is exported to
CASES: Final[dict[str, tuple[str, ...]]] = {
    "cpu-gguf": ("systemd", "quadlet", "compose", "kubernetes", "launchd", "modelfile", "script"),
    "system-scope": ("systemd", "quadlet", "launchd"),
    "nvidia-awq": ("quadlet", "compose", "kubernetes"),
    "nvidia-split-gguf": ("systemd", "quadlet", "compose", "kubernetes"),
    "amd-gguf": ("quadlet", "compose", "kubernetes"),
    "slots-gguf": ("modelfile",),
}


def a_service(**changes: Any) -> Service:
    """A small GGUF model on the CPU, with its command line and its container."""
    plan = changes.pop("plan", None) or samples.sample_plan(
        settings=Settings(context=8192, threads=6, load_mode="none"), devices=("host",)
    )
    artifact = Path(changes.pop("artifact", "/srv/models/smollm2-q4_k_m.gguf"))
    folder = plan.method != "gguf"
    key_file = changes.pop("key_file", "/home/me/.local/state/advisor/keys/smollm2")
    vendor = changes.pop("vendor", "cpu")
    uuids = changes.pop("uuids", ())
    made: dict[str, Any] = {
        "name": "smollm2",
        "plan": plan,
        "served_as": "smollm2",
        "host": "127.0.0.1",
        "port": 8080,
        "health_path": "/health",
        "key_file": key_file,
        "artifact": artifact,
        "folder": folder,
        "artifact_bytes": 105 * MIB,
        "made_by": None,
        "limit_bytes": limit(430 * MIB, 460 * MIB),
        "predicted_bytes": 430 * MIB,
        "cores": plan.settings.threads,
        "scope": "user",
        "user": None,
        "python": "/opt/advisor/bin/python",
    }
    program = runtimes()[plan.runtime].serve(
        ServeRequest(
            settings=plan.settings,
            model_path=str(artifact),
            model_name="smollm2",
            host="127.0.0.1",
            port=8080,
            python="/opt/env/bin/python",
            runner="/opt/advisor/serve.py",
            api_key_file=key_file,
            method=plan.method,
            format=plan.format,
            device=vendor,
            kv_cache_bytes=64 * MIB,
        )
    )
    bare = Service(**made)
    known = images.images(plan.runtime, vendor)
    inside = images.contained(
        known,
        ServeRequest(
            settings=plan.settings,
            model_path=bare.inside,
            model_name="smollm2",
            host=images.EVERYWHERE,
            port=PORT,
            python="",
            api_key_file=KEY if known.key == "file" else None,
            method=plan.method,
            format=plan.format,
            device=vendor,
            kv_cache_bytes=64 * MIB,
        ),
    )
    gpus = tuple(d for d in plan.devices if d != "host")
    ranks = plan.settings.tensor_parallel
    container = Container(
        image=known.images[vendor].image,
        source=known.images[vendor].source,
        entrypoint=known.entrypoint,
        arguments=inside.arguments,
        env=inside.env,
        probe=tuple(w.replace("{port}", str(PORT)) for w in known.probe),
        key_variable=known.key_variable,
        vendor=vendor,
        devices=len(gpus),
        uuids=uuids,
        shared_bytes=ranks << 30 if ranks > 1 else 0,
        uid=1000,
        gid=1000,
    )
    return bare._replace(program=Program(program.argv, program.env), container=container, **changes)


def case(name: str) -> Service:
    """One of ``CASES``."""
    gguf = samples.sample_plan
    if name == "cpu-gguf":
        return a_service()
    if name == "system-scope":
        return a_service(scope="system", user="advisor", host="0.0.0.0", port=9000)
    if name == "nvidia-awq":
        settings = Settings(context=32768, parallel=4, threads=8, tensor_parallel=2, gpu_memory_utilization=0.85)
        plan = gguf(method="awq", format="w4a16-g128", runtime="vllm", settings=settings, devices=("gpu0", "gpu1"))
        return a_service(plan=plan, artifact="/srv/models/llama-awq", vendor="nvidia")
    if name == "nvidia-split-gguf":
        settings = Settings(context=16384, threads=8, gpu_layers=20, cpu_moe_layers=12, kv_type="q8_0")
        plan = gguf(settings=settings, devices=("gpu0", "host"))
        return a_service(plan=plan, vendor="nvidia", uuids=("GPU-5b4c0a12-0000-4000-8000-000000000001",))
    if name == "amd-gguf":
        settings = Settings(context=16384, threads=8, gpu_layers=33, load_mode="mlock")
        return a_service(plan=gguf(settings=settings, devices=("gpu0",)), vendor="amd")
    if name == "slots-gguf":
        settings = Settings(context=16384, parallel=4, threads=8, gpu_layers=33, kv_type="q8_0")
        return a_service(plan=gguf(settings=settings, devices=("gpu0",)), vendor="nvidia")
    raise KeyError(name)


def golden() -> dict[Path, str]:
    """Every golden file with its content; the version of advisor is left out."""
    out = {}
    for name, to in CASES.items():
        for fmt in to:
            service, needs = case(name), formats()[fmt].needs
            service = service._replace(
                program=service.program if needs == "program" else None,
                container=service.container if needs == "container" else None,
            )
            for file in formats()[fmt].files(service):
                text = file.text.replace(f"advisor {__version__}", "advisor VERSION")
                out[GOLDEN / name / fmt / file.name] = text
    return out


# -- how the systems read ------------------------------------------------------------------------------------------


def systemd_sections(text: str) -> dict[str, list[tuple[str, str]]]:
    """Sections with their settings in order, as systemd.syntax(7) has them."""
    out: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for line in text.splitlines():
        if not line or line[0] in "#;":
            continue
        assert not line.endswith("\\"), "a line that goes on"
        if line.startswith("["):
            current = out.setdefault(line[1:-1], [])
            continue
        key, _, value = line.partition("=")
        current.append((key, value.strip()))
    return out


_ESCAPES: Final = {"n": "\n", "t": "\t", '"': '"', "'": "'", "\\": "\\", "s": " ", "r": "\r"}


def systemd_words(value: str) -> list[str]:
    """Words of a value: quotes, C escapes, then specifiers (only ``%%`` may stand there)."""
    words, current, quote, begun, i = [], "", "", False, 0
    while i < len(value):
        c = value[i]
        if c == "\\":
            current += _ESCAPES[value[i + 1]]
            begun, i = True, i + 2
            continue
        if quote and c == quote:
            quote = ""
        elif not quote and c in "\"'" and not current:
            quote, begun = c, True
        elif not quote and c == " ":
            if begun or current:
                words.append(current)
            current, begun = "", False
        else:
            current += c
        i += 1
    assert not quote, "a quote that is not closed"
    if begun or current:
        words.append(current)
    return [specifiers(w) for w in words]


def specifiers(text: str) -> str:
    """``%%`` is a percent sign; nothing else of the kind may be there."""
    assert not re.search(r"%(?!%)", text.replace("%%", "")), text
    return text.replace("%%", "%")


def systemd_command(value: str) -> list[str]:
    """The argument list of an ``ExecStart=``: words, with ``$$`` for a dollar unless ``:`` stands in front."""
    plain = value.startswith(":")
    words = systemd_words(value.removeprefix(":"))
    return words if plain else [words[0], *(dollars(w) for w in words[1:])]


def dollars(text: str) -> str:
    """``$$`` is a dollar; a single one would be a variable."""
    assert "$" not in text.replace("$$", ""), text
    return text.replace("$$", "$")


def read_dollars(value: Any) -> Any:
    """``dollars`` in every text of plain data."""
    if isinstance(value, str):
        return dollars(value)
    if isinstance(value, list):
        return [read_dollars(v) for v in value]
    if isinstance(value, dict):
        return {k: read_dollars(v) for k, v in value.items()}
    return value


def main() -> None:
    """Write the golden files, and delete those that are no more."""
    made = golden()
    for old in [p for p in GOLDEN.rglob("*") if p.is_file() and p not in made]:
        old.unlink()
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
