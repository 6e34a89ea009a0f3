"""Proves an artifact: the types in its file, perplexity and KL divergence against the original, and its answers."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from advisor.errors import AdvisorError
from advisor.events import Cancel, Event, Reporter, safely
from advisor.execute import gate, texts
from advisor.execute.disk import disk_errors
from advisor.execute.proc import RUNNERS, run_runner
from advisor.execute.prompts import PROMPTS, Prompt, incoherence
from advisor.execute.store import Store, file_sha256
from advisor.execute.tasks import Answers, Task, free_prompts, read_tasks, score, weighed
from advisor.facts.results import Band, Finding, PromptPair, TaskScore, Verification
from advisor.facts.text import clean
from advisor.facts.words import format_options

if TYPE_CHECKING:
    from advisor.cost.gguf_mix import Assigned
    from advisor.execute.envs import Env
    from advisor.facts.model import ModelFacts

STEP: Final = "verify"
CHUNKS: Final = 10
CONTEXT: Final = 512
ANSWER_TOKENS: Final = 32
_SHOWN: Final = 700


def verify(
    artifact: Path,
    reference: Path | None,
    *,
    env: Env,
    model: ModelFacts,
    method: str,
    fmt: str,
    log: Path,
    imatrix: bool = False,
    store: Store | None = None,
    text: texts.Text | None = None,
    tasks: Path | None = None,
    chunks: int = CHUNKS,
    context: int = CONTEXT,
    threads: int | None = None,
    prompts: Sequence[Prompt] = PROMPTS,
    reporter: Reporter | None = None,
    cancel: Cancel | None = None,
) -> Verification:
    """Compare a GGUF artifact with the GGUF file of the unquantized model.

    Args:
        artifact: the file to prove.
        reference: the unquantized model (f16, bf16 or f32); ``None``: only the artifact's own perplexity and answers.
        env: the environment of the ``logits`` runner.
        model: whose size decides the bands.
        imatrix: whether an importance matrix was used.
        store: keeps the measurement, so that it is not made twice.
        text: what to measure on; the bundled verification text by default.
        tasks: a user's JSON lines, see ``tasks.read_tasks``; answered by both.
        chunks: how many pieces of ``context`` tokens to score, half of each piece.
        threads: worker threads.

    Returns: the numbers, both sides' answers, the findings and the gate's verdict; a failed gate is not an exception.

    Raises:
        AdvisorError: ``artifact-invalid``, ``untrusted-model-header``, ``bad-option`` (a text too short, a bad task
            file), ``out-of-memory``, ``step-failed``, ``interrupted``.
    """
    say = safely(reporter)
    text = text or texts.verification_text()
    questions = read_tasks(tasks) if tasks is not None else ()
    types, wrong = check_types(artifact, fmt=fmt, imatrix=imatrix)
    got = _measure(
        [p for p in (reference, artifact) if p is not None],
        text,
        [p.text for p in prompts] + free_prompts(questions),
        weighed(questions),
        env=env,
        chunks=chunks,
        context=context,
        threads=threads,
        store=store,
        log=log,
        reporter=say,
        cancel=cancel,
    )
    if reference is not None:
        bands = bands_for(model, method, fmt, imatrix)
    else:
        bands = gate.bands_without_original(model.vocab)
    measured = gate.Measured(
        perplexity=got["perplexity"][-1],
        perplexity_reference=got["perplexity"][0] if reference is not None else None,
        kld=got["kld"],
        top1_agreement=got["top1_agreement"],
        positions=got["positions"],
        non_finite=got["non_finite"],
    )
    pairs = answer_pairs(prompts, got["prompts"], alone=reference is None)
    findings = gate.find_problems(
        measured,
        pairs,
        bands,
        fmt=fmt,
        imatrix=imatrix,
        types=wrong,
        artifact_bytes=weight_bytes(artifact),
        reference_bytes=weight_bytes(reference) if reference is not None else None,
    )
    return gate.verification(
        measured,
        bands,
        findings=findings,
        text=text,
        prompts=pairs,
        types=types,
        seconds=got["seconds"],
        task=_score(tasks, questions, got, len(prompts), alone=reference is None),
    )


def check_types(artifact: Path, *, fmt: str, imatrix: bool) -> tuple[dict[str, int], Finding | None]:
    """Count the tensor types in a GGUF file and hold them against those that ``fmt`` gives this architecture.

    A file whose weights take over a tenth more than the format's is of another format, whatever it is called, unless
    most weights have the format's own type: that is a mix, whose other tensors were given more bits. Other deviations
    are left to the numbers. Returns tensors by type, and the finding if any.

    Raises:
        AdvisorError: ``file-not-found``, ``untrusted-model-header``.
    """
    from advisor.cost.gguf_mix import DEFAULTS, assign
    from advisor.cost.gguf_types import BLOCKS
    from advisor.model.resolve import resolve
    from advisor.model.tensors import tensors

    facts = resolve(str(artifact))
    specs = tensors(facts)
    types = dict(sorted(Counter(t.gguf_type or "unknown" for t in specs).items()))
    if fmt.partition(":")[0] not in DEFAULTS:
        return types, None

    def size(kind: str | None, elements: int) -> float:
        block, nbytes = BLOCKS.get(kind or "", (1, 4))
        return elements * nbytes / block

    # What never is quantized (norms, biases) says nothing; beside experts in MXFP4 a converter leaves 16 bits.
    assigned = [a for a in assign(facts, specs, fmt, imatrix=imatrix) if a.type != "f32"]
    assigned = [a for a in assigned if fmt != "mxfp4" or a.type == "mxfp4"]
    wanted = sum(size(a.type, a.tensor.elements) for a in assigned)
    found = sum(size(a.tensor.gguf_type, a.tensor.elements) for a in assigned)
    different = [a for a in assigned if a.tensor.gguf_type != a.type]
    if found >= 0.8 * wanted and (found <= 1.1 * wanted or _usual(assigned, stored=True) == _usual(assigned)):
        return types, None
    sample = ", ".join(f"{clean(a.tensor.name)} is {a.tensor.gguf_type}, not {a.type}" for a in different[:3])
    return types, Finding(
        code="wrong-types",
        message=f"{len(different)} of {len(assigned)} weight tensors are not of the types of {fmt}: {sample}.",
        remedy=f"The quantizer did something else than it was asked for. Quantize again from the original: "
        f"advisor quantize MODEL {format_options(fmt)}",
        sources=(gate.GUIDE_FAILURES,),
    )


def _usual(assigned: Sequence[Assigned], *, stored: bool = False) -> str | None:
    """The type of most weights, as it is to be or as the file has it."""
    weights: Counter[str | None] = Counter()
    for a in assigned:
        weights[a.tensor.gguf_type if stored else a.type] += a.tensor.elements
    return max(weights, key=lambda kind: (weights[kind], kind or ""), default=None)


def weight_bytes(path: Path) -> int:
    """Bytes of all tensors of a GGUF file.

    Raises:
        AdvisorError: ``file-not-found``, ``untrusted-model-header``.
    """
    from advisor.model.gguf import read_header

    return sum(t.nbytes for t in read_header(path).tensors)


def bands_for(model: ModelFacts, method: str, fmt: str, imatrix: bool) -> dict[str, Band]:
    """The bands of a format for a model of this size; empty where there are no figures for it."""
    from advisor.cost.quality import bands, keeps_experts

    fmt = "q8_0" if keeps_experts(model, method, fmt) else fmt
    try:
        return bands(model.params, method, fmt, imatrix=imatrix)
    except AdvisorError as e:
        # No figures for this format: it is measured all the same, and the gate says that it has no limits.
        if e.code != "bad-option":
            raise
        return {}


def _measure(
    models: list[Path],
    text: texts.Text,
    prompts: list[str],
    choices: list[dict[str, Any]],
    *,
    env: Env,
    chunks: int,
    context: int,
    threads: int | None,
    store: Store | None,
    log: Path,
    reporter: Reporter,
    cancel: Cancel | None,
) -> dict[str, Any]:
    """What the runner measured, from the store where it was measured before."""

    def run(folder: Path) -> dict[str, Any]:
        written = folder / "text.txt"
        with disk_errors(written):
            written.write_text(text.text, encoding="utf-8")
        request = {
            "models": [str(m) for m in models],
            "text": str(written),
            "chunks": chunks,
            "context": context,
            "threads": threads,
            "prompts": prompts,
            "choices": choices,
            "max_tokens": ANSWER_TOKENS,
        }
        return run_runner(
            env, "logits.py", request, step=STEP, reporter=reporter, cancel=cancel, log=log, threads=threads
        )

    if store is None:
        import tempfile

        with tempfile.TemporaryDirectory(prefix="advisor-") as folder:
            return run(Path(folder))

    def build(tmp: Path) -> dict[str, Any]:
        measured = run(tmp)
        (tmp / "text.txt").unlink()
        (tmp / "measured.json").write_bytes(msgspec.json.encode(measured))
        return {"measured": measured}

    reporter(Event(kind="progress", step=STEP, message="reading both files"))
    key = store.key(
        "verify",
        {"models": [content_sha256(m) for m in models], "text": text.sha256},
        params={
            "chunks": chunks,
            "context": context,
            "prompts": hashlib.sha256("\0".join(prompts).encode()).hexdigest(),
            "choices": hashlib.sha256(msgspec.json.encode(choices)).hexdigest(),
            "tokens": ANSWER_TOKENS,
        },
        tool=f"{env.name} {env.digest} {runner_digest('logits.py', 'scores.py')}",
    )
    path, _ = store.make(key, build, cancel=cancel)
    measured: dict[str, Any] = store.manifest(path)["measured"]
    return measured


def content_sha256(path: Path) -> str:
    """SHA-256 of a file: from its manifest where it lies unchanged in a store, else by reading it."""
    path = path.resolve()
    folder = path.parent
    if (folder / "manifest.json").is_file() and folder.parent.name == "artifacts":
        store = Store(folder.parent.parent)
        try:
            if store.find(folder.name) == folder:
                for f in store.record(folder).files:
                    if folder / f.path == path:
                        return f.sha256
        except (ValueError, OSError):
            return file_sha256(path)
    return file_sha256(path)


def runner_digest(*names: str) -> str:
    """What tells one version of a measurement from another: of the texts of its runners."""
    whole = hashlib.sha256()
    for name in names:
        whole.update((RUNNERS / name).read_bytes())
    return whole.hexdigest()[:16]


def answer_pairs(prompts: Sequence[Prompt], answers: list[list[str]], *, alone: bool) -> tuple[PromptPair, ...]:
    """Prompts with the answers of the original (unless ``alone``) and of the artifact."""
    out = []
    for i, prompt in enumerate(prompts):
        answer, reference = answers[-1][i], "" if alone else answers[0][i]
        # An original that rambles itself is no measure for its artifact.
        fine = incoherence(answer) is None or (not alone and incoherence(reference) is not None)
        out.append(
            PromptPair(
                name=prompt.name,
                prompt=_short(prompt.text),
                reference=clean(reference, None, one_line=False),
                answer=clean(answer, None, one_line=False),
                same=not alone and answer == reference,
                coherent=fine,
            )
        )
    return tuple(out)


def _short(text: str) -> str:
    """A prompt as it is shown: of a very long one its beginning and its end."""
    return text if len(text) <= 2 * _SHOWN else f"{text[:_SHOWN]} ... {text[-_SHOWN:]}"


def _score(
    path: Path | None, questions: Sequence[Task], got: dict[str, Any], skip: int, *, alone: bool
) -> TaskScore | None:
    if path is None:
        return None
    sides = [Answers(free[skip:], chosen) for free, chosen in zip(got["prompts"], got["choices"], strict=True)]
    return score(path.name, questions, sides[-1], None if alone else sides[0])
