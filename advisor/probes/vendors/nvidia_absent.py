"""Why an NVIDIA device that is there cannot be asked or used: which driver holds it, what the container lacks."""

from __future__ import annotations

import re
from typing import Any, Final

from advisor.facts.text import clean
from advisor.probes.pci import FOLDER, PciDevice
from advisor.probes.vendors.base import Look

KERNEL: Final = "/proc/driver/nvidia/version"
CONTROL: Final = "/dev/nvidiactl"
LIBRARY: Final = "libnvidia-ml.so.1"
WSL_LIBRARY: Final = f"/usr/lib/wsl/lib/{LIBRARY}"
_LIBRARY_FOLDERS: Final = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")
_VERSION: Final = re.compile(r"\d{3,4}(?:\.\d{1,4}){1,2}")
_REASONS: Final[dict[str, str]] = {
    "deadline": "the NVIDIA driver does not answer",
    "not-installed": "nvidia-ml-py is not installed and nvidia-smi gives no answer, so the driver cannot be asked",
    "not-started": "the driver could not be asked",
    "no-answer": "the NVIDIA driver gave no usable answer",
    "LIBRARY_NOT_FOUND": f"the NVIDIA driver's library ({LIBRARY}) is not installed",
    "DRIVER_NOT_LOADED": "the NVIDIA kernel driver is not loaded",
    "LIB_RM_VERSION_MISMATCH": "the NVIDIA library and kernel driver have different versions; a restart is due",
    "NO_PERMISSION": "this user may not talk to the NVIDIA driver",
    "GPU_IS_LOST": "the device has fallen off the bus; a restart is due",
    "INSUFFICIENT_POWER": "a power cable of the device is missing",
    "IRQ_ISSUE": "the device has an interrupt problem",
    "RESET_REQUIRED": "the device must be reset",
    "GPU_NOT_FOUND": "the driver does not find the device; it failed to start",
}
# Of these the whole device is lost, whichever question they answer.
FATAL: Final = frozenset(("GPU_IS_LOST", "RESET_REQUIRED", "IRQ_ISSUE", "INSUFFICIENT_POWER"))
# How to start the container otherwise is said for all vendors alike (``surroundings.explain_missing``).
_NO_ACCESS: Final = f"the container was given no device file ({CONTROL}) by the NVIDIA container toolkit"


def reason_of(error: object, deadline_s: float) -> str:
    """A driver's error, ``{"code", "message"}``, in words."""
    code = clean(str(error.get("code")), 60) if isinstance(error, dict) else ""
    if code == "deadline":
        return f"{_REASONS[code]} within {deadline_s:g} s"
    if code in _REASONS:
        return _REASONS[code]
    message = clean(str(error.get("message") or ""), 120) if isinstance(error, dict) else ""
    return "the NVIDIA driver answers with an error: " + (" ".join(w for w in (code, message) if w) or "unknown")


def held(look: Look, device: PciDevice) -> str | None:
    """The reason where another driver than NVIDIA's holds the device; ``None`` where NVIDIA's or none does."""
    driver = look.source.link(f"{FOLDER}/{device.address}/driver")
    if driver is None or driver == "nvidia":
        return None
    if driver in ("vfio-pci", "pci-stub"):
        return f"it is set aside for a virtual machine ({driver})"
    name = clean(driver, 40)
    return f"the kernel driver {name} holds it, which cannot compute; NVIDIA's own driver is needed"


def unreachable(look: Look) -> str | None:
    """The reason where there is no way to any device, known without asking: a container without access."""
    if look.host.container is None or look.source.exists(CONTROL) or look.source.exists("/dev/dxg"):
        return None
    chosen = look.environment.get("NVIDIA_VISIBLE_DEVICES")
    if chosen is not None and chosen.strip() in ("", "void", "none"):
        return f"hidden by NVIDIA_VISIBLE_DEVICES={clean(chosen.strip(), 10)}"
    return _NO_ACCESS


def silent(look: Look, error: object, stdout: object) -> str:
    """The reason where the driver gave no list; ``stdout`` is what ``nvidia-smi`` printed, if it was asked."""
    code = error.get("code") if isinstance(error, dict) else None
    if code == "LIB_RM_VERSION_MISMATCH":
        from advisor.probes.vendors.nvidia_smi import library_version

        kernel, library = kernel_version(look), library_version(stdout) or _installed(look)
        if kernel and library and kernel != library:
            return (
                f"the NVIDIA kernel driver is {kernel}, its library {library}; restart the machine to load the new one"
            )
    if code == "DRIVER_NOT_LOADED" and look.source.exists("/dev/dxg"):
        return "the NVIDIA driver of Windows does not answer; update it, then wsl --shutdown"
    if code == "LIBRARY_NOT_FOUND" and not any(look.source.exists(path) for path in (KERNEL, CONTROL, "/dev/dxg")):
        return f"no driver: NVIDIA's kernel driver is not loaded, its library ({LIBRARY}) is not installed"
    return reason_of(error, look.deadline_s)


def kernel_version(look: Look) -> str | None:
    """The version of the loaded kernel driver."""
    line = next((t for t in (look.source.text(KERNEL) or "").split("\n") if t.startswith("NVRM version:")), "")
    found = _VERSION.search(line[:300])
    return found[0] if found else None


def unlisted(look: Look, device: PciDevice) -> str:
    """The reason for a device on the bus that the driver leaves out of its list."""
    return held(look, device) or (
        "the NVIDIA driver does not list it: it failed to start, or has fallen off the bus (see dmesg)"
        if look.source.link(f"{FOLDER}/{device.address}/driver") == "nvidia"
        else "no driver holds it"
    )


def _installed(look: Look) -> str | None:
    """The version in the name of the file that the library's link leads to."""
    for folder in _LIBRARY_FOLDERS:
        name = look.source.link(f"{folder}/{LIBRARY}")
        found = _VERSION.search(name.removeprefix("libnvidia-ml.so.")) if name else None
        if found:
            return found[0]
    return None


def pci_key(address: object) -> str | None:
    """An address on the bus as the kernel writes it: ``0000:01:00.0``; the driver writes eight digits of domain."""
    found = (
        re.fullmatch(r"([0-9a-fA-F]{4,8}):([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.([0-7])", address)
        if isinstance(address, str)
        else None
    )
    return f"{int(found[1], 16):04x}:{found[2]}:{found[3]}.{found[4]}".lower() if found else None


def error_of(raw: Any) -> str | None:
    """The code where a device's reply says that the device itself is lost."""
    if not isinstance(raw, dict):
        return None
    codes = [raw.get("error")] + [v.get("error") for v in raw.values() if isinstance(v, dict)]
    return next((c for c in codes if isinstance(c, str) and c in FATAL), None)
