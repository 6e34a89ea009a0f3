"""Proves a checkpoint folder through the runtime that will serve it: the 16-bit original first, then the artifact.

One model is loaded at a time. What was measured of the original (its distributions too) lies in the store under the
identity of its weights, the text, the settings and the environment, and serves every artifact made of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from advisor.events import Cancel, Event, Reporter, safely
from advisor.execute import checkpoint_types, gate, texts
from advisor.execute.disk import disk_errors
from advisor.execute.make import identity
from advisor.execute.proc import run_runner
from advisor.execute.prompts import EDGES, PROMPTS, Prompt, incoherence, long_prompt
from advisor.execute.remedies import more_quality
from advisor.execute.store import Store
from advisor.execute.tasks import Answers, free_prompts, read_tasks, score, weighed
from advisor.execute.verify import ANSWER_TOKENS, CHUNKS, CONTEXT, answer_pairs, bands_for, runner_digest
from advisor.facts.results import Finding, PromptPair, Verification

if TYPE_CHECKING:
    from advisor.execute.envs import Env
    from advisor.facts.model import ModelFacts
    from advisor.facts.recipe import Recipe

MeasuringRuntime = Literal["vllm", "transformers"]
STEP: Final = "verify"
KEPT: Final = "kept.npz"
RUNNERS: Final[dict[str, tuple[str, ...]]] = {
    "vllm": ("measure_vllm.py", "measuring.py", "scores.py"),
    "transformers": ("measure_transformers.py", "measuring.py", "scores.py", "loading.py", "loaded.py"),
}


@dataclass(frozen=True, slots=True)
class _Run:
    """What both measurements share."""

    env: Env
    runtime: MeasuringRuntime
    settings: Mapping[str, Any]
    text: texts.Text
    log: Path
    threads: int | None
    variables: Mapping[str, str]
    store: Store | None
    reporter: Reporter
    cancel: Cancel | None

    def request(self, folder: Path, recipe: Recipe | None, tmp: Path, **more: Any) -> dict[str, Any]:
        written = tmp / "text.txt"
        with disk_errors(written):
            written.write_text(self.text.text, encoding="utf-8")
        try:
            return run_runner(
                self.env,
                RUNNERS[self.runtime][0],
                {
                    **self.settings,
                    "model": str(folder),
                    "recipe": recipe.to_json() if recipe is not None else None,
                    "text": str(written),
                    "threads": self.threads,
                    **more,
                },
                step=STEP,
                reporter=self.reporter,
                cancel=self.cancel,
                log=self.log,
                threads=self.threads,
                variables=self.variables,
            )
        finally:
            written.unlink(missing_ok=True)

    def key(self, kind: str, folder: Path, recipe: Recipe | None, **more: object) -> str:
        assert self.store is not None
        return self.store.key(
            kind,
            {"model": folder_identity(folder), "text": self.text.sha256, **more},
            params={
                "settings": hashlib.sha256(msgspec.json.encode(self.settings)).hexdigest(),
                "recipe": recipe.to_json() if recipe is not None else None,
            },
            tool=f"{self.env.name} {self.env.digest} {runner_digest(*RUNNERS[self.runtime])}",
        )


def verify_checkpoint(
    artifact: Path,
    reference: Path | None,
    *,
    env: Env,
    runtime: MeasuringRuntime,
    recipe: Recipe | None,
    model: ModelFacts,
    method: str,
    fmt: str,
    log: Path,
    store: Store | None = None,
    text: texts.Text | None = None,
    tasks: Path | None = None,
    chunks: int = CHUNKS,
    context: int = CONTEXT,
    threads: int | None = None,
    prompts: Sequence[Prompt] = PROMPTS,
    device: str = "cpu",
    variables: Mapping[str, str] | None = None,
    dtype: str = "auto",
    reporter: Reporter | None = None,
    cancel: Cancel | None = None,
) -> Verification:
    """Compare a checkpoint folder with the 16-bit checkpoint it was made of, both in ``runtime``.

    Args:
        artifact: the folder; for a method that quantizes at load the 16-bit checkpoint itself.
        reference: the folder of the original; ``None``: only the artifact's own perplexity and answers.
        env: the environment of ``runtime``.
        recipe: how the artifact was or is quantized; ``None`` for a 16-bit checkpoint.
        model: whose size decides the bands.
        store: keeps both measurements, so that neither is made twice.
        text: what to measure on; the bundled verification text by default.
        tasks: a user's JSON lines, see ``tasks.read_tasks``; answered or weighed by both.
        chunks: how many pieces of ``context`` tokens to score, half of each piece.
        device: ``cpu`` or ``cuda``.
        variables: which devices the runner sees.
        dtype: ``auto``, ``bf16``, ``f16`` or ``f32``: what is computed in, for both.

    Returns: the numbers, both sides' answers, the findings and the gate's verdict; a failed gate is not an exception.
        ``types`` counts the tensors of the artifact's files by type.

    Raises:
        AdvisorError: ``file-not-found``, ``untrusted-model-header``, ``untrusted-model-config``, ``artifact-invalid``
            (another tokenizer), ``bad-option`` (a text too short, a bad task file), ``runtime-unfit``,
            ``out-of-memory``, ``step-failed``, ``interrupted``.
    """
    say = safely(reporter)
    text = text or texts.verification_text()
    questions = read_tasks(tasks) if tasks is not None else ()
    stored = checkpoint_types.read(artifact)
    edges = (*EDGES, long_prompt(text.text, context))
    run = _Run(
        env=env,
        runtime=runtime,
        settings={
            "chunks": chunks,
            "context": context,
            "prompts": [p.text for p in (*prompts, *edges)] + free_prompts(questions),
            "choices": weighed(questions),
            "max_tokens": ANSWER_TOKENS,
            "device": device,
            "dtype": dtype,
        },
        text=text,
        log=log,
        threads=threads,
        variables=variables or {},
        store=store,
        reporter=say,
        cancel=cancel,
    )
    before, after = _both(run, artifact, reference, recipe)
    alone, measurable = before is None, before is None or not before["non_finite"]
    answers = [side["prompts"] for side in (before, after) if side is not None]
    measured = gate.Measured(
        perplexity=after["perplexity"],
        perplexity_reference=before["perplexity"] if before is not None else None,
        # An original whose own outputs are not finite is no measure, and the gate says that there is none.
        kld=after["kld"] if measurable else None,
        top1_agreement=after["top1_agreement"] if measurable else None,
        positions=after["positions"],
        non_finite=after["non_finite"],
    )
    bands = gate.bands_without_original(model.vocab) if alone else bands_for(model, method, fmt, imatrix=False)
    pairs = answer_pairs(prompts, answers, alone=alone)
    edge_pairs = answer_pairs(edges, [a[len(prompts) :] for a in answers], alone=alone)
    wrong = checkpoint_types.check(stored, recipe) or checkpoint_types.check_loaded(after["loaded"], recipe, runtime)
    findings = [
        *gate.find_problems(
            measured,
            pairs,
            bands,
            fmt=fmt,
            imatrix=False,
            method=method,
            types=wrong,
            artifact_bytes=after["loaded"]["bytes"],
            reference_bytes=before["loaded"]["bytes"] if before is not None else None,
        ),
        *checkpoint_types.slow_kernels(after["loaded"], recipe, runtime, device=device),
    ]
    findings += [] if before is None else gate.find_layers(before["blocks"], after["blocks"], method=method, fmt=fmt)
    findings += _edges(edge_pairs, method, fmt)
    skip = len(prompts) + len(edges)
    sides = [Answers(s["prompts"][skip:], s["choices"]) for s in (before, after) if s is not None]
    return gate.verification(
        measured,
        bands,
        findings=findings,
        text=text,
        prompts=(*pairs, *edge_pairs),
        types=stored.types,
        seconds=round(after["seconds"] + (before["seconds"] if before is not None else 0.0), 3),
        task=None if tasks is None else score(tasks.name, questions, sides[-1], None if alone else sides[0]),
        loaded=_loaded(after),
    )


def _both(
    run: _Run, artifact: Path, reference: Path | None, recipe: Recipe | None
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """What was measured of the original and of the artifact, from the store where it was measured before."""
    if run.store is None:
        import tempfile

        with tempfile.TemporaryDirectory(prefix="advisor-") as folder:
            kept, before = Path(folder) / KEPT, None
            if reference is not None:
                before = run.request(reference, None, Path(folder), write=str(kept))
            return before, run.request(
                artifact, recipe, Path(folder), reference=str(kept) if before is not None else None
            )
    run.reporter(Event(kind="progress", step=STEP, message="reading both checkpoints"))
    before, kept_path, original = None, None, None
    if reference is not None:
        original = run.key("original", reference, None)
        before, folder_ = _stored(run, original, lambda tmp: run.request(reference, None, tmp, write=str(tmp / KEPT)))
        kept_path = folder_ / KEPT
    key = run.key("verify", artifact, recipe, against=original)
    after, _ = _stored(
        run, key, lambda tmp: run.request(artifact, recipe, tmp, reference=str(kept_path) if kept_path else None)
    )
    return before, after


def _stored(run: _Run, key: str, measure: Any) -> tuple[dict[str, Any], Path]:
    assert run.store is not None

    def build(tmp: Path) -> dict[str, Any]:
        measured = measure(tmp)
        (tmp / "measured.json").write_bytes(msgspec.json.encode(measured))
        return {"measured": measured}

    path, _ = run.store.make(key, build, cancel=run.cancel)
    measured: dict[str, Any] = run.store.manifest(path)["measured"]
    return measured, path


def folder_identity(folder: Path) -> str:
    """The content hash of a checkpoint folder: from its manifest where it lies unchanged in a store, else by reading.

    Raises:
        AdvisorError: ``file-not-found``.
    """
    folder = folder.resolve()
    for base in (folder, folder.parent):
        if (base / "manifest.json").is_file() and base.parent.name == "artifacts":
            store = Store(base.parent.parent)
            with suppress(ValueError, OSError, msgspec.MsgspecError):
                if store.find(base.name) == base:
                    files = [(f.path, f.sha256) for f in store.record(base).files if folder in (base / f.path).parents]
                    return f"sha256:{hashlib.sha256(msgspec.json.encode(sorted(files))).hexdigest()}"
    return identity(folder)


def _edges(pairs: Sequence[PromptPair], method: str, fmt: str) -> tuple[Finding, ...]:
    """A finding where edge cases lost their answers: half of them, or one to what is not made of characters.

    Small models fall into repeating themselves by a rounding; one such answer is no sign of anything.
    """
    weak = [p for p in pairs if not p.coherent]
    if 2 * len(weak) < len(pairs) and not any("not text" in (incoherence(p.answer) or "") for p in weak):
        return ()
    return (
        Finding(
            code="degenerate-edge-cases",
            message=f"It answers {', '.join(p.name for p in weak)} with what is no text, where the original gives a "
            "text.",
            remedy=more_quality(fmt, False, method=method),
            sources=(gate.GUIDE_CHECKS,),
        ),
    )


def _loaded(after: dict[str, Any]) -> dict[str, str]:
    """What was really loaded, in words: for people and for the receipt."""
    told = after["loaded"]
    out = {
        "weights": f"{told['bytes']:,} bytes",
        "dtype": str(told.get("dtype")),
        "modules": ", ".join(f"{n} {kind}" for kind, n in (told.get("modules") or {}).items()),
        "quantized": str(told.get("quantized")),
        "peak memory": f"{after['peak_bytes']:,} bytes",
        "load": f"{after['load_seconds']:.1f} s",
    }
    if after.get("decode_tokens_per_s"):
        out["decode"] = f"{after['decode_tokens_per_s']:.1f} tokens/s while verifying"
    versions = ", ".join(f"{name} {version}" for name, version in (told.get("versions") or {}).items())
    return {**out, "versions": versions}
