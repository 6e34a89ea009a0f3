"""Device copies, measured by torch in a managed environment that can use the device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from advisor.backends import pins as pins_
from advisor.errors import AdvisorError
from advisor.events import Cancel
from advisor.execute import envs
from advisor.execute.proc import run_runner
from advisor.facts.machine import Device
from advisor.facts.quantity import Quantity
from advisor.facts.text import clean
from advisor.probes.measured import DeviceCopy
from advisor.probes.profiles import normal
from advisor.probes.sanity import within

if TYPE_CHECKING:
    from advisor.settings import Settings

STABLE_FROM: Final = 0.75
_DEADLINE_S: Final = 120.0
_KINDS: Final = ("cuda", "xpu", "mps")
_VENDOR_KINDS: Final = {"nvidia": "cuda", "amd": "cuda", "intel": "xpu", "apple": "mps"}


def with_torch(settings: Settings) -> tuple[envs.Env, ...]:
    """The environments that are built and hold torch."""
    if not settings.paths.envs.is_dir():
        return ()
    found = (envs.find(name, settings=settings) for name in pins_.names())
    return tuple(e for e in found if e is not None and "torch" in envs.installed(Path(e.path)))


def ask(
    env: envs.Env, log: Path, *, kinds: tuple[str, ...] = _KINDS, cancel: Cancel | None = None, **sizes: int
) -> Any:
    """The raw result of the runner ``device_copy``.

    Raises:
        AdvisorError: the runner failed, or was interrupted.
    """
    return run_runner(
        env,
        "device_copy.py",
        {"kinds": list(kinds), **sizes},
        step="device copy",
        cancel=cancel,
        log=log,
        timeout_s=_DEADLINE_S,
    )


def measure(
    devices: tuple[Device, ...], settings: Settings, *, cancel: Cancel | None = None
) -> tuple[tuple[DeviceCopy, ...], tuple[str, ...]]:
    """What could be measured of the usable ``devices``, and for each other one why it was not.

    Raises:
        AdvisorError: ``interrupted``.
    """
    wanted = tuple(d for d in devices if d.unusable is None)
    if not wanted:
        return (), ()
    found: list[DeviceCopy] = []
    problems: list[str] = []
    for env in with_torch(settings):
        left = tuple(d for d in wanted if d.id not in {c.device for c in found})
        if not left:
            break
        try:
            result = ask(env, settings.paths.logs / "steps" / "device-copy.log", cancel=cancel)
        except AdvisorError as e:
            if e.code == "interrupted":
                raise
            problems.append(f"{env.name}: {e.message}")
            continue
        copies, more = place(result, left, f"torch {clean(str(result.get('torch')), 40)} in {env.name}")
        found += copies
        problems += more
    missing = [d for d in wanted if d.id not in {c.device for c in found}]
    why = "; ".join(problems) or "no managed environment has torch for it"
    return tuple(found), tuple(f"{d.id} ({clean(d.name, 80)}) was not measured: {why}" for d in missing)


def place(result: Any, devices: tuple[Device, ...], source: str) -> tuple[tuple[DeviceCopy, ...], tuple[str, ...]]:
    """The figures of a result, each for the device that it belongs to: by UUID, by name, or as the only one."""
    left, found, problems = list(devices), [], []
    told = result.get("devices") if isinstance(result, dict) else None
    for one in [d for d in told if isinstance(d, dict)] if isinstance(told, list) else []:
        of_kind = [d for d in left if _VENDOR_KINDS.get(d.vendor) == one.get("kind")]
        uuid, name = _bare(one.get("uuid")), normal(str(one.get("name")))
        same = next((d for d in of_kind if uuid and _bare(d.uuid) == uuid), None)
        same = same or next((d for d in of_kind if normal(d.name) == name), None)
        same = same or (of_kind[0] if len(of_kind) == 1 else None)
        if "error" in one:
            problems.append(clean(str(one["error"]), 200))
            continue
        rates = [one.get(key) for key in ("worst", "median", "best")]
        known = [r for r in rates if isinstance(r, int | float) and within(r, "bandwidth")]
        if same is None or len(known) != 3 or sorted(known) != known:
            continue
        left.remove(same)
        low, value, high = known
        found.append(
            DeviceCopy(
                device=same.id,
                name=same.name,
                quantity=Quantity(
                    value=int(value),
                    low=int(low),
                    high=int(high),
                    unit="bytes/s",
                    method="measured",
                    source=f"device copy of {one.get('bytes')} bytes, {source}",
                ),
                stable=low / high >= STABLE_FROM,
            )
        )
    return tuple(found), tuple(problems)


def _bare(uuid: object) -> str:
    """``GPU-8932f937-...`` and ``8932f937-...`` are the same one."""
    return str(uuid).lower().removeprefix("gpu-") if uuid else ""
