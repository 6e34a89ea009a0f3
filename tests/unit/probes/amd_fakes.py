"""A machine with AMD devices made in a test: the files of amdgpu and of the Kernel Fusion Driver."""

from __future__ import annotations

from typing import Any

from tests.unit.probes.fake import GIB, FakeSource

NODES = "/sys/class/kfd/kfd/topology/nodes"
SERIALS = ("8f1e2d3c4b5a6978", "0a1b2c3d4e5f6071")


def card(
    address: str = "0000:03:00.0",
    *,
    ids: tuple[str, str] = ("0x744c", "0xc8"),
    minor: int = 128,
    driver: str | None = "amdgpu",
    vram: int | str = 25753026560,
    **files: str,
) -> FakeSource:
    """A machine with one device: an RX 7900 XTX with all that a usual system says of it."""
    at = f"/sys/bus/pci/devices/{address}"
    texts = {"vendor": "0x1002", "class": "0x030000", "device": ids[0], "revision": ids[1]}
    texts |= {"mem_info_vram_total": str(vram), "mem_info_vram_used": "1073741824"} | files
    return FakeSource(
        {f"{at}/{name}": text + "\n" for name, text in texts.items()},
        names={"/sys/bus/pci/devices": (address,), f"{at}/drm": ("card0", f"renderD{minor}")},
        links={} if driver is None else {f"{at}/driver": driver},
        replies=files_of(minor),
    )


def files_of(*minors: int, kfd: bool | None = True, render: bool = True) -> dict[str, Any]:
    files = {f"/dev/dri/renderD{m}": {"open": render, "group": "render"} for m in minors}
    if kfd is not None:
        files["/dev/kfd"] = {"open": kfd, "group": "render"}
    return {"device-files": {"files": files}}


def node(
    source: FakeSource, number: int, address: str, gfx: int, *, units: int = 96, each: int = 2, **more: int
) -> None:
    """Add a node of the Kernel Fusion Driver; number 0 is the processor."""
    domain, bus, rest = address.split(":")
    slot, function = rest.split(".")
    location = int(bus, 16) << 8 | int(slot, 16) << 3 | int(function)
    known = {"simd_count": units * each, "simd_per_cu": each, "gfx_target_version": gfx, "vendor_id": 4098}
    known |= {"location_id": location, "domain": int(domain, 16), "mem_banks_count": 1, "drm_render_minor": 128} | more
    bank = known.pop("bank", 0)
    source.files[f"{NODES}/{number}/properties"] = "".join(f"{k} {v}\n" for k, v in known.items())
    source.files[f"{NODES}/{number}/mem_banks/0/properties"] = f"heap_type 1\nsize_in_bytes {bank}\n"
    source.files.setdefault(f"{NODES}/0/properties", "cpu_cores_count 16\nsimd_count 0\nvendor_id 0\n")
    source.listed[NODES] = tuple(sorted({*source.listed.get(NODES, ("0",)), str(number)}))
    source.there = (*source.there, "/dev/kfd")


def pair() -> FakeSource:
    """Two MI210, of which the kernel's second node is the first on the bus."""
    first, second = card("0000:63:00.0", ids=("0x740f", "0x02"), vram=64 * GIB), None
    second = card("0000:43:00.0", ids=("0x740f", "0x02"), vram=64 * GIB, minor=129)
    source = FakeSource(
        first.files | second.files,
        names=first.listed | second.listed | {"/sys/bus/pci/devices": ("0000:43:00.0", "0000:63:00.0")},
        links=first.links | second.links,
        replies=files_of(128, 129),
    )
    node(source, 1, "0000:63:00.0", 90010, units=104, each=4)
    node(source, 2, "0000:43:00.0", 90010, units=104, each=4, drm_render_minor=129)
    for address, serial in zip(("0000:63:00.0", "0000:43:00.0"), SERIALS, strict=True):
        source.files[f"/sys/bus/pci/devices/{address}/unique_id"] = serial + "\n"
    return source
