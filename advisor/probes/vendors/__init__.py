"""One file a vendor: a cheap check whether one of its devices is there, and what its driver says of them."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Final

from advisor.facts.words import Vendor
from advisor.probes.vendors.base import VendorProbe

# In the order in which devices are numbered where nothing else decides.
NAMES: Final[tuple[Vendor, ...]] = ("nvidia", "amd", "intel", "apple")


@cache
def probe_of(name: str) -> VendorProbe:
    """The probe in ``advisor/probes/vendors/<name>.py``."""
    found: VendorProbe = import_module(f"advisor.probes.vendors.{name}").PROBE
    return found
