"""The health check of the environment that has nothing but pip. Request: ``{}``; result: ``{"pip": version}``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import protocol


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Import pip and say which it is."""
    import pip

    return {"pip": pip.__version__}


if __name__ == "__main__":
    protocol.run(work, code="env-failed")
