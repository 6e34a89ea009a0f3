"""Candidates for what misses by a little: mixes of GGUF types where a file type fits and the next larger one does not,
and a KV cache of 8 bits where a format misses an accelerator by less than that saves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from advisor.facts.model import ModelFacts, TensorSpec
from advisor.planner.building import Scored
from advisor.planner.candidate import Candidate

if TYPE_CHECKING:
    from advisor.planner.recommend import Drop

CacheFn = Callable[[Candidate], int | None]

# The next type is a little too large where it lacks no more than this share of what it would take.
_LITTLE: Final = 0.2
_PLACES: Final = ("gpu", "cpu")
# The least that is worth a smaller cache; below it a split or the host is as good.
_WORTH: Final = ("q8_0", "q6_k", "q5_k_m", "q4_k_m")
_CACHE: Final = "q8_0"
_CACHE_SHARE: Final = 34 / 64  # bytes of q8_0 against 16 bits


def between(
    model: ModelFacts, tensors: tuple[TensorSpec, ...], kept: Iterable[Scored], dropped: Iterable[Drop]
) -> Iterator[Candidate]:
    """At most one mix for each place: the largest one over the largest file type that fits there, as far as the bytes
    reach that the next larger type is not short of."""
    fitting: dict[tuple[str, ...], list[Scored]] = {}
    for s in kept:
        c = s.candidate
        if c.method == "gguf" and c.source == "quantize" and not c.types and c.target.placement in _PLACES:
            fitting.setdefault((c.runtime, c.target.placement, *c.target.keys), []).append(s)
    short: dict[tuple[str, ...], int] = {}
    for d in dropped:
        c = d.candidate
        if c.method == "gguf" and d.short_by:
            short[c.runtime, c.target.placement, *c.target.keys, c.format] = d.short_by
    if not fitting or not short:
        return
    from advisor.cost import mixes
    from advisor.cost.gguf_file import weight_map

    for place in sorted(fitting):
        steps = {s.candidate.format: s for s in fitting[place] if s.candidate.format in mixes.LADDER[:-1]}
        best = next((steps[f] for f in reversed(mixes.LADDER) if f in steps), None)
        if best is None:
            continue
        c = best.candidate
        missed = short.get((*place, mixes.above(c.format)))
        if missed is None or missed > _LITTLE * best.cost.memory.total.value:
            continue
        own, larger = (
            weight_map(model, tensors, f, imatrix=best.imatrix).loaded for f in (c.format, mixes.above(c.format))
        )
        room = larger - own - missed * max(1, len(c.target.devices))
        for mix in mixes.raised(model, tensors, c.format, imatrix=best.imatrix):
            if mix.loaded - own <= room:
                yield c._replace(types=mix.types)
                break


def smaller_cache(kept: Iterable[Scored], dropped: Iterable[Drop], bytes_of: CacheFn) -> Iterator[Candidate]:
    """At most one candidate for each accelerator (or set of them) that no type of four bits and more fits: the largest
    such type that would fit with a KV cache of 8 bits.

    Args:
        bytes_of: bytes of a candidate's cache in 16 bits.
    """
    held = {_place(s.candidate) for s in kept if s.candidate.method == "gguf" and s.candidate.format in _WORTH}
    best: dict[tuple[str, ...], Candidate] = {}
    for d in dropped:
        c = d.candidate
        if c.method != "gguf" or c.target.placement != "gpu" or not d.short_by or c.types or c.format not in _WORTH:
            continue
        place = _place(c)
        if place in held or (place in best and _WORTH.index(best[place].format) <= _WORTH.index(c.format)):
            continue
        size = bytes_of(c)
        if size is not None and size * (1 - _CACHE_SHARE) / len(c.target.devices) >= d.short_by:
            best[place] = c
    for place in sorted(best):
        yield best[place]._replace(kv_type=_CACHE)


def _place(c: Candidate) -> tuple[str, ...]:
    return (c.runtime, *c.target.keys)
