"""Memory of a llama.cpp server, as its own allocations add up."""

from __future__ import annotations

from typing import Final

from advisor.cost import repack
from advisor.cost.compute import work_buffer
from advisor.cost.device_work import device_work, habits, host_inputs
from advisor.cost.gguf_file import EMBEDDING, WeightMap, weight_map
from advisor.cost.host_caches import NOTHING, Kept, kept_bytes
from advisor.cost.kv import SOURCE as KV_SOURCE
from advisor.cost.kv import cache_by_layer, cells, layers, state_by_layer
from advisor.cost.placement import HOST, Placement, device_of, place
from advisor.facts.machine import Machine
from advisor.facts.model import ModelFacts, TensorSpec
from advisor.facts.plan import Memory, Settings
from advisor.facts.protocols import EngineOracle
from advisor.facts.quantity import Quantity, exact, total

MIB: Final = 1 << 20
_DRY: Final = "the engine's own dry load"
# provider -> resident bytes without any model: what the process and its libraries take
_PROCESS: Final = {"wheel": 43 * MIB, "build": 20 * MIB, "path": 20 * MIB, "binding": 76 * MIB}
_PROCESS_SOURCE: Final = {
    "wheel": "resident size of xllamacpp's server in a Python process, less its buffers, for five vocabularies",
    "build": "resident size of llama-server less its buffers",
    "path": "resident size of llama-server less its buffers",
    "binding": "measured: resident size of llama-cpp-python's server less its buffers, for five vocabularies",
}
_MEASURED: Final = ("wheel", "binding")
# Bytes of tables an entry of the vocabulary takes, and the rule by which it was merged. Llama 3 has two rules an entry,
# the vocabularies of Gemma have none.
_TOKEN: Final = 210
_MERGE: Final = 200
_TWO_MERGES: Final = range(128_000, 129_000)
_HEAP: Final = 12 * MIB  # of a freed buffer that the C library keeps
_CANDIDATE: Final = 12  # bytes of a word that a slot may choose (``llama_token_data``)
_CONTEXTS: Final = {  # driver context and pools of one process on a device: value, low, high
    "nvidia": (420 * MIB, 150 * MIB, 900 * MIB),
    "amd": (350 * MIB, 100 * MIB, 900 * MIB),
    "intel": (350 * MIB, 100 * MIB, 900 * MIB),
    "apple": (120 * MIB, 20 * MIB, 400 * MIB),
    "other": (350 * MIB, 50 * MIB, 900 * MIB),
}
_MAPPED: Final = (None, "mmap", "mmap+mlock", "auto")  # load modes that map the file


def is_mapped(settings: Settings) -> bool:
    """Whether the file is mapped into memory, not read."""
    return settings.load_mode in _MAPPED


class _Sums:
    """Bytes by device and by what they are for."""

    def __init__(self) -> None:
        self.by: dict[tuple[str, str], int] = {}

    def add(self, device: str, what: str, size: int) -> None:
        self.by[device, what] = self.by.get((device, what), 0) + size

    def of(self, device: str, what: str) -> int:
        return self.by.get((device, what), 0)

    def all(self, what: str) -> int:
        return sum(v for (_, w), v in self.by.items() if w == what)


def _spread(weights: WeightMap, at: Placement, caches: dict[int, int], states: dict[int, int]) -> _Sums:
    sums = _Sums()
    for i, size in enumerate(weights.layers):
        home = at.layers[i]
        held = weights.experts[i] if i in at.experts_on_host and home != HOST else 0
        sums.add(home, "weights", size - held)
        sums.add(HOST, "weights", held)
        sums.add(home, "kv", caches.get(i, 0))
        sums.add(home, "state", states.get(i, 0))
    sums.add(HOST, "weights", weights.embedding)
    sums.add(at.output, "weights", weights.output)
    if weights.tied and at.output != HOST:  # looked up on the host, multiplied on the device
        sums.add(at.output, "weights", sum(p.bytes for p in weights.parts if p.name == "token_embd.weight"))
    return sums


def _second(weights: WeightMap, at: Placement, types: dict[str, int]) -> tuple[int, int]:
    """Bytes of copies beside the mapped file, and the part of it whose pages the engine lets go afterwards."""
    copies = repack.copied_bytes(weights, types)
    size = sum(b for p, b in copies.items() if p >= 0 and at.layers[p] == HOST)
    if at.output == HOST:
        size += sum(b for p, b in copies.items() if p < 0)
    last = len(weights.layers) - 1  # what follows the last matrix that is used in place is unmapped again
    tail = copies.get(last, 0) if size and at.layers[last:] == (HOST,) else 0
    return size, tail


def memory(
    model: ModelFacts,
    tensors: tuple[TensorSpec, ...],
    *,
    fmt: str,
    settings: Settings,
    machine: Machine,
    devices: tuple[str, ...],
    imatrix: bool = False,
    as_is: bool | None = None,
    provider: str = "wheel",
    build_isa: tuple[str, ...] | None = None,
    unified: bool = False,
    engine: EngineOracle | None = None,
    kept: Kept = NOTHING,
) -> Memory:
    """Bytes that a llama.cpp server of ``model`` in ``fmt`` takes, by purpose and by device.

    Args:
        model: architecture facts.
        tensors: the model's tensors under their GGUF names.
        fmt: GGUF file type.
        settings: context, slots, cache type, batch sizes, layers on devices, load mode.
        machine: for the CPU's features and the devices' makers.
        devices: ``("host",)``, ``("gpu0",)``, or ``("gpu0", "host")`` for a split.
        imatrix: an importance matrix is used.
        as_is: the model's own file is served.
        provider: ``wheel`` (the server inside a Python process), ``build`` or ``path`` (``llama-server``), ``binding``
            (llama-cpp-python's server, compiled here).
        build_isa: features the program was compiled for; by default those of prebuilt packages for ``wheel``, and the
            CPU's own for the others.
        unified: one cache for all slots.
        engine: asked for cache, state and buffers where it is there.
        kept: prompts and checkpoints that the server keeps on the host; nothing where advisor starts it.

    Raises:
        AdvisorError: ``bad-option`` for an unknown file type.
        KeyError: an unknown cache type or device.
    """
    weights = weight_map(model, tensors, fmt, imatrix=imatrix, as_is=as_is)
    at = place(len(weights.layers), settings, machine, devices)
    sums = _spread(
        weights, at, cache_by_layer(model, tensors, settings, unified=unified), state_by_layer(model, tensors, settings)
    )
    gpus = [d for d in devices if d != HOST]
    # With a device in use the engine keeps host weights in the device's pinned memory instead.
    types = {} if gpus else repack.here(machine, provider, build_isa)
    mapped = is_mapped(settings)
    copied, tail = _second(weights, at, types) if mapped else (0, 0)
    room = cells(model, settings, unified=unified)
    work = work_buffer(model, tensors, settings, room)
    asked = engine(model, fmt, settings) if engine is not None else None
    if asked is not None:
        work = exact(asked.compute_bytes, "bytes", _DRY, "engine")
    output = _bytes(4 * model.vocab * max(settings.parallel, 1), "vocabulary * 4 bytes a slot")
    if asked is not None:
        output = exact(asked.output_bytes, "bytes", _DRY, "engine")
    process = overhead(model, provider, slots=settings.parallel, rows=min(settings.ubatch, room.sequence))
    if not mapped:
        process = total([process, left(weights, types)], process.source)
    if kept != NOTHING:
        more = kept_bytes(model, tensors, settings, kept)
        process = total([process, more], f"{process.source}; {more.source}")
    main = gpus[0] if gpus else HOST
    parts: dict[str, dict[str, Quantity]] = {}
    for key in dict.fromkeys((HOST, *gpus)):
        one: dict[str, Quantity] = {
            "weights": _bytes(sums.of(key, "weights"), "tensor types and shapes", low=tail if key == HOST else 0),
            "kv": _bytes(sums.of(key, "kv"), KV_SOURCE),
            "state": _state(model, tensors, sums.of(key, "state")),
        }
        if asked is not None:
            one["kv"] = _told(asked.kv_cache_bytes, sums, key, "kv", first=key == main)
            one["state"] = _told(asked.state_bytes, sums, key, "state", first=key == main)
        busy = key in at.layers or key == at.output
        if key == HOST:
            one["output"] = output
            one["repack"] = _bytes(copied, "types that ggml repacks for this CPU")
            one["overhead"] = process
            one["compute"] = host_inputs(model, settings, room, busy=busy) if gpus else work
        else:
            one["overhead"] = device_context(machine, key)
            one["compute"] = device_work(
                model, tensors, settings, room, weights, at, key, habits(provider, settings.ubatch)
            )
        parts[key] = one
    if not mapped:
        parts[HOST]["repack"] = _read(weights, types, parts[HOST])
    by_device = {key: total(list(one.values()), "sum of its parts") for key, one in parts.items()}

    def over(what: str, source: str) -> Quantity:
        found = [one[what] for one in parts.values() if what in one]
        return total(found, source) if found else exact(0, "bytes", source)

    return Memory(
        weights=over("weights", "tensors that are loaded, as stored"),
        kv_cache=over("kv", parts[HOST]["kv"].source),
        state=over("state", parts[HOST]["state"].source),
        compute=over("compute", work.source),
        output=over("output", output.source),
        repack=over("repack", parts[HOST]["repack"].source),
        overhead=over("overhead", process.source),
        total=total(list(by_device.values()), "sum of its parts"),
        reserved=None,
        by_device=by_device,
    )


def _told(size: int, sums: _Sums, key: str, what: str, *, first: bool) -> Quantity:
    """The device's part of what the engine named for all of them: by layers, rounded up; all of it on the ``first``
    device where the formulas know of no layer that has any."""
    whole = sums.all(what)
    share = -(-size * sums.of(key, what) // whole) if whole else size * first
    return exact(share, "bytes", _DRY, "engine")


def _read(weights: WeightMap, types: dict[str, int], host: dict[str, Quantity]) -> Quantity:
    """Memory beside the weights where the file is read.

    A token embedding that is the output matrix too is kept twice where it is repacked: rows are looked up in the one,
    the other is multiplied with. The buffer through which the largest matrix is read is gone before cache and work
    buffer are there, so it can only be felt where it is larger than these.
    """
    twice = repack.copied_bytes(weights, types).get(EMBEDDING, 0)
    later = sum(int(host[what].value) for what in ("kv", "state", "compute", "output"))
    buffer = max(0, repack.largest(weights, types) - later)
    return exact(twice + buffer, "bytes", "the file is read into the layout of this CPU: no second copy")


def overhead(model: ModelFacts, provider: str, *, slots: int = 1, rows: int = 0) -> Quantity:
    """What the server's process takes beside its buffers: libraries, an interpreter, tables of the vocabulary, and the
    input of the widest matrix for ``rows`` tokens in 8 bits (``ggml_graph_plan``'s work data, q8_K).

    Measured for vocabularies of 1,024 to 256,000 entries, with and without merges: 43 MiB and 210 to 410 bytes an entry
    with the Python package, 23 MiB less without, and 33 more with llama-cpp-python, whose server is a Python program
    (FastAPI, numpy).
    """
    base = _PROCESS.get(provider, _PROCESS["build"])
    words = model.vocab * (_TOKEN + _MERGE * _merges(model))
    rounded = rows * max(model.intermediate, model.hidden) * 292 // 256
    value = base + words + rounded + _CANDIDATE * model.vocab * max(slots - 1, 0)
    return Quantity(
        value=value,
        low=base * 3 // 4,
        high=base + 30 * MIB + rounded + model.vocab * (_TOKEN + 2 * _MERGE + _CANDIDATE * max(slots, 1)),
        unit="bytes",
        method="measured" if provider in _MEASURED else "fit",
        source=_PROCESS_SOURCE.get(provider, _PROCESS_SOURCE["build"]),
    )


def left(weights: WeightMap, types: dict[str, int]) -> Quantity:
    """What the C library keeps of the buffers through which a file was read."""
    size = repack.largest(weights, types)
    return Quantity(
        value=min(size, _HEAP),
        low=0,
        high=min(size, 2 * _HEAP),
        unit="bytes",
        method="measured",
        source="7 to 20 MiB were left in the heap after files of 7 and 8 billion weights",
    )


def _merges(model: ModelFacts) -> int:
    """Rules a word of the vocabulary: those of Gemma's tokenizers come without, Llama 3's with two."""
    if model.architecture.startswith("gemma"):
        return 0
    return 2 if model.architecture == "llama" and model.vocab in _TWO_MERGES else 1


def _bytes(size: int, source: str, low: int = 0) -> Quantity:
    """An exact number of bytes, of which the engine may release ``low`` again."""
    return Quantity(value=size, low=max(size - low, 0), high=size, unit="bytes", method="exact", source=source)


def _state(model: ModelFacts, tensors: tuple[TensorSpec, ...], size: int) -> Quantity:
    recurrent = layers(model, tensors)[1]
    if not recurrent:
        return exact(0, "bytes", "no recurrent layers")
    if all(s.sure for s in recurrent):
        return exact(size, "bytes", "shapes of the recurrent layers, f32")
    return Quantity(
        value=size,
        low=size // 2,
        high=size * 2,
        unit="bytes",
        method="guess",
        source="recurrent layers of unknown kind",
    )


def device_context(machine: Machine, key: str) -> Quantity:
    """What a driver takes on the device for one process that uses it: a guess by the maker of the device."""
    device = device_of(machine, key)
    value, low, high = _CONTEXTS[device.vendor if device else "other"]
    return Quantity(
        value=value, low=low, high=high, unit="bytes", method="guess", source="driver context and pools of one process"
    )
