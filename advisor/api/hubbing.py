"""Models of the hub for the facade: facts with or without the network, and the fetch step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from advisor import datafiles
from advisor.errors import AdvisorError
from advisor.facts.model import ModelFacts
from advisor.facts.text import clean
from advisor.model import hubref
from advisor.model.hubref import HubRef

if TYPE_CHECKING:
    from advisor.events import Cancel, Reporter
    from advisor.execute.hub.access import Patience
    from advisor.execute.hub.client import Hub
    from advisor.execute.hub.metadata import Known
    from advisor.execute.steps import Steps
    from advisor.execute.texts import Use
    from advisor.settings import Settings

# What a failed question to the hub may be answered from memory for.
_PASSING = ("network", "offline")


def client(
    settings: Settings,
    *,
    patience: Patience | None = None,
    reporter: Reporter | None = None,
    cancel: Cancel | None = None,
) -> Hub:
    """A client of the hub that the settings name.

    Raises:
        AdvisorError: ``bad-option`` for an unusable endpoint or token.
    """
    from advisor.execute.hub.access import TRANSFER, access_of
    from advisor.execute.hub.client import Hub

    return Hub(access_of(settings), patience=patience or TRANSFER, reporter=reporter, cancel=cancel)


def lookup(ref: str, settings: Settings, *, ask: bool, steps: Steps | None = None) -> ModelFacts | None:
    """Facts of a model of the hub. Where its weights are here, no network is used (unless a branch is named).

    Args:
        ref: what the user wrote.
        ask: the hub may be asked; otherwise ``None`` unless the weights are here.
        steps: the run that this belongs to.

    Raises:
        AdvisorError: ``offline`` naming what is missing, ``model-not-found``, ``gated``, ``unauthorized``, ``network``,
            and what the readers of configuration and headers raise.
    """
    parsed = hubref.parse(ref)
    if parsed is None or (not ask and not (Path(settings.paths.cache) / "hub").is_dir()):
        return None
    _check_origin(ref, parsed, settings)
    from advisor.execute.hub import metadata
    from advisor.execute.hub.record import Library

    library = Library(Path(settings.paths.cache))
    record = library.find(parsed)
    kept: Known | None = None
    if record is not None:
        try:
            kept = metadata.read(None, library, record, parsed)
        except AdvisorError as e:
            if e.code != "offline":
                raise
    if kept is not None:
        local = _here(settings, kept)
        moving = parsed.revision is not None and not parsed.pinned
        if local is not None and (settings.offline or not moving or not ask):
            return metadata.facts(kept, parsed, local=local)
        if ask and (parsed.pinned or settings.offline):
            return metadata.facts(kept, parsed)
    if not ask:
        return None
    if settings.offline:
        from advisor.model import bundled

        overlay = datafiles.overlay_dir(settings.paths.config, "profiles/models")
        raise AdvisorError(
            "offline",
            f"{clean(ref, 120)} is not here, and advisor is offline: neither its configuration nor its weights have "
            f"been fetched.{bundled.suggestion(parsed.repo, overlay)}",
            context=["bundled models can be planned for without a network: advisor models list", bundled.NEWER],
            hint="advisor models list",
            data={"missing": clean(ref)},
        )
    try:
        known = _ask(parsed, settings, steps)
    except AdvisorError as e:
        if e.code == "model-not-found" and parsed.revision is None and parsed.file is None:
            overlay = datafiles.overlay_dir(settings.paths.config, "profiles/models")
            from advisor.model import bundled

            e.message += bundled.suggestion(parsed.repo, overlay)
        if e.code not in _PASSING or kept is None:
            raise
        note = f"the hub could not be asked; these are the facts of {kept.record.commit[:12]}, as read before"
        found = metadata.facts(kept, parsed, local=_here(settings, kept))
        return msgspec.structs.replace(found, notes=(*found.notes, note))
    return metadata.facts(known, parsed, local=_here(settings, known))


def _check_origin(ref: str, parsed: HubRef, settings: Settings) -> None:
    """A page of another host is not asked: its name would be ours, and the token is for one hub."""
    if parsed.origin is None:
        return
    from advisor.execute.hub.access import access_of

    access = access_of(settings)
    if not access.serves(parsed.origin):
        raise AdvisorError(
            "model-not-found",
            f"{clean(ref, 120)} is not on {access.endpoint}, the hub that is set.",
            context=[f"another hub is named by HF_ENDPOINT={clean(parsed.origin, 120)}"],
            hint="advisor config show",
        )


def _ask(parsed: HubRef, settings: Settings, steps: Steps | None) -> Known:
    from advisor.execute.hub import metadata
    from advisor.execute.hub.access import BRIEF
    from advisor.execute.hub.record import Library

    library = Library(Path(settings.paths.cache))
    hub = client(
        settings,
        patience=BRIEF,
        reporter=steps.reporter if steps is not None else None,
        cancel=steps.cancel if steps is not None else None,
    )
    record = library.find(parsed) if parsed.pinned else None
    record = record or metadata.resolve(hub, library, parsed)
    return metadata.read(hub, library, record, parsed)


def _here(settings: Settings, known: Known) -> Path | None:
    if not settings.paths.store.is_dir():
        return None
    from advisor.execute.hub import fetch
    from advisor.execute.store import Store

    return fetch.find(Store(settings.paths.store), known)


def fetched(ref: str, settings: Settings, steps: Steps) -> ModelFacts:
    """The model with its weights on this machine, fetched as a step if need be.

    Raises:
        AdvisorError: ``offline``, ``network``, ``gated``, ``unauthorized``, ``model-not-found``, ``missing-part``,
            ``integrity``, ``pickle-refused``, ``remote-code-refused``, ``disk-full``, ``interrupted``.
    """
    from advisor.execute.steps import Outcome, Step

    parsed = hubref.parse(ref)
    if parsed is None:
        raise AdvisorError("model-not-found", f"Not a model of the hub: {clean(ref)!r}.")

    def run() -> Outcome[ModelFacts]:
        found = lookup(ref, settings, ask=True, steps=steps)
        if found is not None and found.path is not None:
            return Outcome(found, reused=True, detail=found.ref)
        if settings.offline:
            raise AdvisorError(
                "offline",
                f"The weights of {clean(ref, 120)} are not here, and advisor is offline.",
                data={"missing": clean(ref)},
            )
        from advisor.execute.hub import fetch, metadata
        from advisor.execute.store import Store

        exact = hubref.parse(found.ref) if found is not None else parsed
        assert exact is not None
        known = _ask(exact, settings, steps)
        metadata.facts(known, exact)  # what the headers forbid is not fetched
        hub = client(settings, reporter=steps.reporter, cancel=steps.cancel)
        folder, reused = fetch.fetch(hub, Store(settings.paths.store, reporter=steps.reporter), known)
        here = metadata.facts(known, parsed, local=folder)
        return Outcome(here, reused, f"{known.record.repo} at {known.record.commit[:12]}")

    return steps.do(Step("fetch", run))


def text(words: str | Path | None, settings: Settings, steps: Steps, *, use: Use = "verification") -> Path | None:
    """The file of a text to measure or to calibrate on; one of a dataset of the hub is fetched as a step.

    Raises:
        AdvisorError: ``bad-option``, ``offline``, ``file-not-found``, ``model-not-found``, ``gated``, ``network``,
            ``integrity``, ``interrupted``.
    """
    if words is None or isinstance(words, Path):
        return words
    from advisor.execute.hub import corpora
    from advisor.execute.steps import Outcome, Step
    from advisor.execute.store import Store

    corpus = corpora.parse(words, use)
    if corpus is None:
        return Path(words)

    def run() -> Outcome[Path]:
        store = Store(settings.paths.store, reporter=steps.reporter)
        found = corpora.find(store, words, corpus)
        if found is not None:
            return Outcome(found, reused=True, detail=words)
        if settings.offline:
            raise AdvisorError(
                "offline",
                f"The text {clean(words, 160)} has not been fetched yet, and advisor is offline.",
                data={"missing": clean(words)},
            )
        hub = client(settings, patience=corpora.PATIENCE, reporter=steps.reporter, cancel=steps.cancel)
        path, reused = corpora.fetch(hub, store, words, corpus)
        return Outcome(path, reused, words)

    return steps.do(Step("text", run))
