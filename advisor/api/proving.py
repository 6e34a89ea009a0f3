"""Proving what was made: a GGUF file loaded for real, then held against the original; what all proofs share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.errors import AdvisorError
from advisor.facts.model import ModelFacts
from advisor.facts.results import Verification

if TYPE_CHECKING:
    from advisor.api.making import Made
    from advisor.execute.envs import Env
    from advisor.execute.steps import Steps
    from advisor.execute.store import Store
    from advisor.settings import Settings


@contextmanager
def withdrawn_if_broken(store: Store, made: Made) -> Iterator[None]:
    """An artifact that turns out not to load is taken out of the store, so that the next run makes it anew."""
    try:
        yield
    except AdvisorError as e:
        if e.code == "artifact-invalid" and made.artifact != made.reference:
            store.withdraw(made.artifact, "it does not load and decode")
        raise


def told(verification: Verification) -> str:
    """The verdict and the divergence, as a step says them."""
    kld = "" if verification.kld is None else f", KL divergence {verification.kld:.4f} nats"
    return f"gate: {verification.gate.verdict}{kld}"


def prove(
    settings: Settings,
    steps: Steps,
    model: ModelFacts,
    made: Made,
    env: Env,
    *,
    fmt: str,
    text: Path | None = None,
    task: Path | None = None,
    chunks: int | None = None,
    context: int | None = None,
    threads: int | None = None,
) -> Verification:
    """Really load the artifact, then hold it against the reference. A failed gate is a verdict here, not an error.

    Raises:
        AdvisorError: ``artifact-invalid``, ``bad-option`` (an unusable text), ``out-of-memory``.
    """
    from advisor.execute import make as making
    from advisor.execute import texts
    from advisor.execute import verify as verifying
    from advisor.execute.steps import Outcome, Step
    from advisor.execute.store import Store

    logs = settings.paths.logs / "steps"

    store = Store(settings.paths.store, reporter=steps.reporter)

    def validate() -> Outcome[None]:
        with withdrawn_if_broken(store, made):
            answer = making.validate_artifact(
                env,
                made.artifact,
                log=logs / "validate.log",
                threads=threads,
                reporter=steps.reporter,
                cancel=steps.cancel,
            )
        return Outcome(None, detail=f"loads and decodes {answer.get('tokens', '')} tokens".replace("  ", " "))

    steps.do(Step("validate", validate))

    def run() -> Outcome[Verification]:
        verification = verifying.verify(
            made.artifact,
            made.reference,
            env=env,
            model=model,
            method="gguf",
            fmt=fmt,
            log=logs / "verify.log",
            imatrix=made.imatrix,
            store=store,
            text=texts.verification_text(text),
            tasks=task,
            chunks=chunks or verifying.CHUNKS,
            context=context or verifying.CONTEXT,
            threads=threads,
            reporter=steps.reporter,
            cancel=steps.cancel,
        )
        return Outcome(verification, detail=told(verification))

    return steps.do(Step("verify", run))
