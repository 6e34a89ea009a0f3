"""``make gpu-check``: what can only be seen where a GPU is, held against what advisor says of it.

Needs a CUDA machine with PyTorch and what it is given: ``--python PROGRAM`` is an interpreter with torch (and, for
their parts, llm-compressor, gptqmodel, vllm), this one by default; ``--llama DIR`` a folder with a CUDA build of
llama.cpp. Each part that has not what it needs says ``not available here`` by itself and why; the others run.
``--layers N`` makes the synthetic model smaller. ``--write FILE`` also writes what is printed. Ends with 5 where there
is no usable GPU, with 1 where a part found something wrong.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from gpu_tools import LLAMA_8B, MIB, AbsentError, device_memory, free_port, served, smi

import advisor
from advisor import settings as settings_
from advisor.errors import AdvisorError
from advisor.execute.envs import Env
from advisor.execute.proc import run_runner
from advisor.facts.machine import Device, Machine
from advisor.facts.words import EXIT_FAILED, EXIT_MACHINE

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))


class Part(NamedTuple):
    """``lines`` are Markdown; ``wrong`` what contradicts what advisor says."""

    lines: list[str]
    wrong: list[str]


class Given(NamedTuple):
    """What the script was given, and what it has made so far."""

    python: str
    llama: Path | None
    layers: int
    folder: Path
    machine: Machine
    log: Path

    @property
    def env(self) -> Env:
        """The interpreter as an environment."""
        return Env(name="given", path=str(Path(self.python).parent.parent), python=self.python)

    def gpus(self) -> list[Device]:
        """Usable NVIDIA devices."""
        found = [d for d in self.machine.devices if d.vendor == "nvidia" and d.unusable is None]
        if not found:
            raise AbsentError("no usable NVIDIA GPU")
        return found

    def need(self, *modules: str) -> None:
        """Refuse where the interpreter lacks one of ``modules``."""
        code = "import importlib.util,sys;print([m for m in sys.argv[1:] if importlib.util.find_spec(m) is None])"
        said = subprocess.run([self.python, "-I", "-c", code, *modules], capture_output=True, text=True, check=False)
        if said.returncode or said.stdout.strip() != "[]":
            raise AbsentError(f"{self.python} has no {said.stdout.strip().strip('[]') or said.stderr.strip()[-200:]}")


def devices(given: Given) -> Part:
    """The probe's figures against nvidia-smi's."""
    found = given.gpus()
    lines = ["| device | what | advisor | nvidia-smi |", "|---|---|---|---|"]
    wrong = []
    said = {row[0]: row[1:] for row in smi("uuid,name,memory.total,driver_version,compute_cap")}
    for device in found:
        told = said.get(device.uuid or "")
        if told is None:
            wrong.append(f"{device.id}: nvidia-smi knows no {device.uuid}")
            continue
        name, total, driver, capability = told
        mine = (
            ("name", device.name, name),
            ("memory, MiB", f"{(device.memory.total_bytes or 0) / MIB:.0f}", total),
            ("driver", device.driver or "?", driver),
            ("compute capability", f"{device.compute_capability}", capability),
        )
        for what, ours, theirs in mine:
            lines.append(f"| {device.id} | {what} | {ours} | {theirs} |")
            if ours != theirs:
                wrong.append(f"{device.id}: {what} is {ours}, nvidia-smi says {theirs}")
        if device.profile is None:
            wrong.append(f"{device.id}: {device.name} has no profile, so its bandwidth is unknown")
    return Part(lines, wrong)


def bandwidth(given: Given) -> Part:
    """Measured by copying on the device, against the profile."""
    given.gpus()
    given.need("torch")
    got = run_runner(
        given.env, "device_copy.py", {"kinds": ["cuda"], "bytes": 1 << 30, "repeats": 9}, step="copy",
        log=given.log, timeout_s=300,
    )  # fmt: skip
    lines = ["| device | profile, GB/s | measured, GB/s | share |", "|---|---|---|---|"]
    wrong = []
    for one, device in zip(got["devices"], given.gpus(), strict=False):
        if "error" in one:
            wrong.append(f"{device.id}: {one['error']}")
            continue
        nominal = device.bandwidth.value if device.bandwidth is not None else None
        share = one["best"] / nominal if nominal else None
        shown = "?" if nominal is None else f"{nominal / 1e9:.0f}"
        lines.append(
            f"| {device.id} {one['name']} | {shown} | {one['best'] / 1e9:.0f} | "
            f"{'?' if share is None else f'{share:.2f}'} |"
        )
        if share is not None and not 0.6 < share < 1.02:
            wrong.append(f"{device.id}: {share:.2f} of the profile's bandwidth was measured")
    return Part(lines, wrong)


def checkpoint(given: Given) -> Path:
    """The synthetic model, made once."""
    out = given.folder / "model"
    if not (out / "config.json").is_file():
        given.need("torch", "safetensors")
        out.mkdir(parents=True, exist_ok=True)
        config = {**LLAMA_8B, "num_hidden_layers": given.layers}
        run_runner(
            given.env, "random_checkpoint.py", {"out": str(out), "config": config}, step="random weights",
            log=given.log, timeout_s=1800,
        )  # fmt: skip
    return out


def quantized(given: Given, method: str) -> tuple[Path, dict[str, Any], int]:
    """The model quantized: its folder, what the runner said, and the device's peak memory in bytes."""
    from advisor.backends import recipes
    from advisor.backends.registry import quantizers
    from advisor.execute.calibration import prepare
    from advisor.facts.recipe import RecipeOptions

    quantizer = {"awq": "llmcompressor", "gptq": "gptqmodel"}[method]
    given.gpus()
    given.need("torch", quantizer)
    out = given.folder / method
    kept = given.folder / f"{method}.json"
    if kept.is_file():
        told = json.loads(kept.read_text(encoding="utf-8"))
        return out, told["result"], told["peak"]
    recipe = recipes.recipe(method, "w4a16-g128", quantizer, RecipeOptions(samples=16), {})
    text = prepare(None, given.folder, method=method, samples=16, sequence_length=recipe.sequence_length)
    out.mkdir(exist_ok=True)
    request = {
        "folder": str(checkpoint(given)),
        "out": str(out),
        "recipe": recipe.to_json(),
        "calibration": str(text.path),
    }
    runner = quantizers()[quantizer].runner
    assert runner is not None
    with device_memory() as seen:
        result = run_runner(given.env, runner, request, step=f"quantize {method}", log=given.log, timeout_s=7200)
    kept.write_text(json.dumps({"result": result, "peak": seen["peak"]}), encoding="utf-8")
    return out, result, seen["peak"]


def quantizing(given: Given, method: str) -> Part:
    """Time, size and memory of quantizing against the prediction."""
    given.gpus()
    plan = _plan(checkpoint(given), method)
    out, result, peak = quantized(given, method)
    size = sum(p.stat().st_size for p in out.glob("*.safetensors"))
    predicted = plan.time.quantize.value if plan is not None and plan.time.quantize is not None else None
    weights = plan.memory.weights.value if plan is not None else None
    lines = [
        "| what | predicted | measured |",
        "|---|---|---|",
        f"| seconds | {'?' if predicted is None else f'{predicted:.0f}'} | {result['seconds']:.0f} |",
        f"| weights, MiB | {'?' if weights is None else f'{weights / MIB:.1f}'} | {size / MIB:.1f} |",
        f"| peak of the device, MiB | | {peak / MIB:.0f} |",
    ]
    wrong = []
    if weights and abs(size / weights - 1) > 0.01:
        wrong.append(f"{method}: {size:,} bytes of weights; {weights:,} were predicted")
    return Part(lines, wrong)


def _plan(folder: Path, method: str, runtime: str = "vllm") -> Any:
    report = advisor.recommend(str(folder), method=method, runtime=runtime, context=4096, top=1)
    return report.plans[0] if report.plans else None


def vllm(given: Given) -> Part:
    """The AWQ artifact served by vLLM: memory, tokens a second and the kernel, against the plan."""
    import msgspec

    from advisor.backends.base import ServeRequest
    from advisor.backends.registry import runtime
    from advisor.execute.proc import RUNNERS

    given.gpus()
    given.need("vllm")
    folder, _, _ = quantized(given, "awq")
    plan = _plan(checkpoint(given), "awq")
    if plan is None:
        raise AbsentError("advisor has no plan for AWQ in vLLM here")
    backend = runtime("vllm")
    command = backend.serve(
        ServeRequest(
            settings=msgspec.structs.replace(plan.settings, gpu_memory_utilization=None),
            model_path=str(folder),
            model_name="m",
            host="127.0.0.1",
            port=(port := free_port()),
            python=given.python,
            runner=str(RUNNERS / (backend.runner or "")),
            method="awq",
            format="w4a16-g128",
            device="nvidia",
            kv_cache_bytes=int(plan.memory.kv_cache.value),
        )
    )
    with device_memory() as seen:
        speed = served(command.argv, command.env, port, given.log, backend)
    return _against(plan, speed, seen["peak"])


def llama(given: Given) -> Part:
    """A CUDA build of llama.cpp: the model as GGUF, all layers on the device, and the sweep of layers against --fit."""
    given.gpus()
    if given.llama is None:
        raise AbsentError("no CUDA build of llama.cpp was named (--llama DIR)")
    programs = {name: given.llama / name for name in ("llama-server", "llama-fit-params", "llama-quantize")}
    lacking = [name for name, at in programs.items() if not at.is_file()]
    if lacking:
        raise AbsentError(f"{given.llama} has no {', '.join(lacking)}")
    import os

    home = settings_.load(env={**os.environ, "ADVISOR_LLAMA_CPP_DIR": str(given.llama)})
    done = advisor.up(
        str(checkpoint(given)), method="gguf", format="q4_k_m", provider="path", name="gpu-check", settings=home
    )
    try:
        assert done.receipt is not None
        measured, plan = done.receipt.measured, done.plan
        lines = _table(plan, measured.decode.value if measured.decode else None, None)
        lines += ["", f"Layers on the device: planned {plan.settings.gpu_layers}."]
        if done.deployment is not None:
            said = subprocess.run(
                [str(programs["llama-fit-params"]), "-m", done.deployment.artifact, "-c", str(plan.settings.context)],
                capture_output=True, text=True, timeout=300, check=False,
            ).stdout  # fmt: skip
            lines.append(f"llama.cpp's own fit: `{said.strip().splitlines()[-1] if said.strip() else 'no answer'}`")
        return Part(lines, [])
    finally:
        advisor.down("gpu-check", settings=home)


def _against(plan: Any, decode: float | None, peak: int) -> Part:
    wrong = []
    weights = int(plan.memory.weights.value)
    if peak < weights:
        wrong.append(f"the device took {peak:,} bytes, less than the weights ({weights:,})")
    return Part(_table(plan, decode, peak), wrong)


def _table(plan: Any, decode: float | None, peak: int | None) -> list[str]:
    on_device = sum(int(q.value) for key, q in plan.memory.by_device.items() if key != "host")
    told = plan.speed.decode
    return [
        "| what | predicted | measured |",
        "|---|---|---|",
        f"| memory of the device, MiB | {on_device / MIB:.0f} | {'?' if peak is None else f'{peak / MIB:.0f}'} |",
        f"| decode, tokens/s | {'?' if told is None else f'{told.value:.1f}'} | "
        f"{'?' if decode is None else f'{decode:.1f}'} |",
    ]


PARTS: dict[str, Callable[[Given], Part]] = {
    "Devices": devices,
    "Bandwidth": bandwidth,
    "AWQ of a synthetic Llama 8B": lambda given: quantizing(given, "awq"),
    "GPTQ of a synthetic Llama 8B": lambda given: quantizing(given, "gptq"),
    "AWQ served by vLLM": vllm,
    "GGUF served by llama.cpp": llama,
}


def run(given: Given) -> tuple[list[str], list[str]]:
    """All parts: Markdown, and what was found wrong."""
    lines = [f"# Measured on a GPU with advisor {advisor.__version__}"]
    wrong: list[str] = []
    for title, part in PARTS.items():
        lines += ["", f"## {title}", ""]
        try:
            done = part(given)
        except AbsentError as e:
            lines.append(f"not available here: {e}")
            continue
        except AdvisorError as e:
            lines += [f"failed: {e.code}: {e.message}", *(f"- {c}" for c in e.context)]
            wrong.append(f"{title}: {e.message}")
            continue
        lines += done.lines
        wrong += [f"{title}: {w}" for w in done.wrong]
        lines += [f"- wrong: {w}" for w in done.wrong]
    return lines, wrong


def main(argv: list[str]) -> int:
    """Run, print, and say by the exit status whether a GPU was there and all was right."""
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("--python", default=sys.executable, help="an interpreter with torch")
    p.add_argument("--llama", type=Path, help="a folder with a CUDA build of llama.cpp")
    p.add_argument("--layers", type=int, default=32, help="layers of the synthetic model")
    p.add_argument("--work", type=Path, help="where the synthetic model lies; a temporary folder by default")
    p.add_argument("--write", type=Path, help="also write what is printed to this file")
    a = p.parse_args(argv)
    machine = advisor.probe().machine
    with tempfile.TemporaryDirectory(prefix="advisor gpu check ") as temporary:
        folder = a.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        given = Given(a.python, a.llama, a.layers, folder, machine, folder / "log.txt")
        lines, wrong = run(given)
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if a.write is not None:
        a.write.write_text(text, encoding="utf-8")
    if not any(d.unusable is None for d in machine.devices):
        print("no usable GPU here", file=sys.stderr)
        return EXIT_MACHINE
    return EXIT_FAILED if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
