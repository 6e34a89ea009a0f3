"""``probe --measure``: host memory, the store's disk, devices; kept until the next boot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from advisor.errors import AdvisorError
from advisor.facts.base import Shape, loads
from advisor.facts.plan import Warning_
from advisor.probes.measured import DeviceCopy, Measurements

if TYPE_CHECKING:
    from advisor.events import Cancel
    from advisor.facts.machine import Machine
    from advisor.settings import Settings

_DEVICES_FILE: Final = "device-copies.json"
_MAX_CACHE_BYTES: Final = 1 << 18


class _Kept(Shape, frozen=True, kw_only=True):
    """``boot``: the boot in which it was measured."""

    boot: str
    devices: tuple[DeviceCopy, ...]


def measure(machine: Machine, settings: Settings, *, cancel: Cancel | None = None) -> tuple[Warning_, ...]:
    """Measure all that can be; what cannot is told of in a warning, and stays as it was.

    Raises:
        AdvisorError: ``not-enough-memory`` for the host's bandwidth, which has no other way; ``interrupted``.
    """
    from advisor.execute import copying
    from advisor.probes import bandwidth, disk

    cache = Path(settings.paths.cache)
    warnings: list[Warning_] = []
    if not bandwidth.measure(cache_dir=cache, cancel=cancel).stable:
        message = "The measured bandwidth varied much between runs; other work was using the memory."
        warnings.append(Warning_(code="bandwidth-unstable", message=message))
    store = disk.read_storage(settings.paths.store)
    if store.kind != "memory":
        try:
            if not disk.measure(settings.paths.store, cache_dir=cache, cancel=cancel).stable:
                message = "The measured disk speed varied much between runs; other work was using the disk."
                warnings.append(Warning_(code="disk-unstable", message=message))
        except AdvisorError as e:
            if e.code == "interrupted":
                raise
            warnings.append(Warning_(code="disk-not-measured", message=e.message))
    copies, problems = copying.measure(machine.devices, settings, cancel=cancel)
    warnings += [Warning_(code="device-not-measured", message=f"{p}; the table stands.") for p in problems]
    warnings += [
        Warning_(
            code="bandwidth-unstable",
            message=f"The copies on {c.device} varied much between runs; other work was using it.",
        )
        for c in copies
        if not c.stable
    ]
    _keep(cache, copies)
    return tuple(warnings)


def known(settings: Settings, *, now: bool = False) -> Measurements:
    """What was measured since this boot, and the disk of the store as it is.

    Args:
        now: note the time, for a recording.
    """
    from advisor.probes import bandwidth, disk

    cache = Path(settings.paths.cache)
    memory = bandwidth.cached(cache)
    store = disk.read_storage(settings.paths.store)
    speed = disk.cached(cache, settings.paths.store)
    if speed is not None:
        store = msgspec.structs.replace(store, read=speed.quantity)
    return Measurements(
        measured_at=_utc() if now else None,
        bandwidth=memory.quantity if memory is not None else None,
        store=store,
        devices=_kept(cache),
    )


def _utc() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat(timespec="seconds")


def _boot() -> str:
    from advisor.probes.boot import boot_id
    from advisor.probes.source import LiveSource

    return boot_id(LiveSource())


def _kept(cache: Path) -> tuple[DeviceCopy, ...]:
    try:
        with (cache / _DEVICES_FILE).open("rb") as f:
            found = loads(_Kept, f.read(_MAX_CACHE_BYTES))
    except (OSError, ValueError, RecursionError):
        return ()
    from advisor.probes.sanity import within

    sane = all(within(c.quantity.value, "bandwidth") and c.quantity.unit == "bytes/s" for c in found.devices)
    return found.devices if found.boot and found.boot == _boot() and sane else ()


def _keep(cache: Path, copies: tuple[DeviceCopy, ...]) -> None:
    """Write the figures in one step; a cache that cannot be written is no failure of the measurement."""
    import os
    import tempfile

    boot = _boot()
    if not boot or not copies:
        return
    try:
        cache.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=cache, prefix=_DEVICES_FILE)
        with os.fdopen(descriptor, "wb") as f:
            f.write(_Kept(boot=boot, devices=copies).dumps())
        Path(name).replace(cache / _DEVICES_FILE)
    except OSError:
        return
