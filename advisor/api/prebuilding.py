"""The provider ``wheel`` for devices: llama.cpp's server, prebuilt with Vulkan, as it stands on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.backends.llama.providers import SERVES, Offer, choose
from advisor.errors import AdvisorError
from advisor.facts.machine import Machine, Prebuilt

if TYPE_CHECKING:
    from advisor.backends.llama.binary import Binary
    from advisor.execute.envs import Env
    from advisor.execute.steps import Steps
    from advisor.facts.plan import Plan
    from advisor.settings import Settings

_ENV = "llama.cpp-vulkan"
_BACKENDS = ("cpu", "vulkan")


def offer(settings: Settings, machine: Machine) -> list[Offer]:
    """The server as an offer, installed or not; none on a machine that has nothing to drive with it."""
    kinds = sorted({d.vendor for d in machine.devices if d.unusable is None and "vulkan" in SERVES.get(d.vendor, ())})
    here = settings.paths.envs.is_dir() and any(settings.paths.envs.glob(f"{_ENV}-*"))
    if not kinds and not here:
        return []
    from advisor.backends.llama import prebuilt
    from advisor.backends.pins import pins

    if here:
        from advisor.execute.envs import find
        from advisor.execute.llama.prebuilt import program

        env = find(_ENV, settings=settings)
        if env is not None and program(env) is not None:
            return [_installed(env, settings, machine)]
    if not kinds:
        return []
    version = pins(_ENV).version_of(prebuilt.PACKAGE) or None
    why = prebuilt.why_not(machine)
    seen = prebuilt.vendors(machine)
    if why is None and not seen:
        why = (
            f"the machine's Vulkan shows no device of {' or '.join(kinds)}: its driver is not there, or vulkaninfo, "
            "with which devices are looked for, is not"
        )
    return [
        Offer(
            provider="wheel",
            state="absent" if why is None else "failed",
            version=version,
            backends=_BACKENDS,
            why=why,
            vendors=seen,
            host_layers=prebuilt.no_host_layers(machine),
            env=_ENV,
        )
    ]


def _installed(env: Env, settings: Settings, machine: Machine) -> Offer:
    """What is installed was tried when it was built: that counts more than what its processor should need."""
    from advisor.backends.llama import prebuilt
    from advisor.execute.llama.prebuilt import facts, health

    kept, tried = facts(env, settings), health(env)
    devices = kept.binary.devices
    host = None if tried.get("layers_on_host", True) else f"it computes no layers on this processor: {_why(tried)}"
    if devices:
        # Without a device then, only serving on the processor was tried: of those there are now that says nothing.
        failed = kept.works is False and bool(env.health.get("devices"))
        why = kept.why if failed else host
    else:
        failed = kept.works is False or host is not None
        why = "; ".join(filter(None, ("it sees no Vulkan device here", host or kept.why)))
    named = {
        d.vendor for d in machine.devices for one in devices if d.name and d.name.lower() in one.description.lower()
    }
    return Offer(
        provider="wheel",
        state="failed" if failed else "works",
        version=kept.binary.label,
        backends=kept.binary.backends,
        why=why,
        binary=kept.binary,
        vendors=tuple(sorted({*prebuilt.vendors(machine), *named})) if devices else (),
        host_layers=host,
        env=_ENV,
    )


def _why(tried: dict[str, object]) -> str:
    return str(tried.get("host_why") or "its trial failed")


def drives(offers: list[Offer]) -> Prebuilt | None:
    """What devices the server drives, or would once it is installed."""
    for one in offers:
        if one.state in ("works", "absent") and one.vendors and "vulkan" in one.backends:
            return Prebuilt(vendors=one.vendors, layers_on_host=one.host_layers is None)  # type: ignore[arg-type]
    return None


def program(
    settings: Settings, steps: Steps, best: Offer, plan: Plan, machine: Machine, kind: str, *, split: bool
) -> Binary:
    """The server of an offer, installed where it is not yet.

    Raises:
        AdvisorError: ``runtime-unfit`` where it turns out not to do for the plan; what building an environment raises.
    """
    if best.binary is not None:
        return best.binary
    from advisor.execute.envs import ensure

    ensure(_ENV, settings=settings, reporter=steps.reporter, cancel=steps.cancel)
    now = choose(plan.settings, kind, offer(settings, machine), wanted="wheel", split=split)
    if now.binary is None:
        raise AdvisorError("runtime-unfit", f"The environment {_ENV} has no server.", hint=f"advisor env doctor {_ENV}")
    return now.binary
