"""What names this boot: measurements are kept as long as it lasts, whatever the clock says."""

from __future__ import annotations

from advisor.probes.source import Source


def boot_id(source: Source, *, deadline_s: float = 3.0) -> str:
    """A name that changes with each boot; empty where the system has none."""
    found = (source.text("/proc/sys/kernel/random/boot_id") or "").strip()
    if not found and source.platform().system == "Darwin":
        from advisor.probes import darwin

        found = darwin.sysctl(source, deadline_s).get("kern.bootsessionuuid", "")
    return found
