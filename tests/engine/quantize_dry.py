"""Run inside an environment with cyllama: which type each tensor would get. ``quantize_dry.py SOURCE NUMBER...``.

Prints ``{file type number: {tensor: type}}``; a tensor that keeps its type is left out, and null stands for a refusal.
"""

from __future__ import annotations

import json
import re
import sys

from cyllama.llama.llama_cpp import (  # type: ignore[import-not-found]
    LlamaModelQuantizeParams,
    model_quantize,
    set_log_callback,
)

LINE = re.compile(r"\[ *\d+/ *\d+\] +(\S+) +- .*?-> +[\d.]+ MiB \((\w+)\)")
source, *numbers = sys.argv[1:]
told: list[str] = []
set_log_callback(lambda _level, text: told.append(text))
found: dict[str, dict[str, str] | None] = {}
for number in numbers:
    told.clear()
    params = LlamaModelQuantizeParams()
    params.nthread = 1
    params.ftype = int(number)
    params.dry_run = True
    try:
        model_quantize(source, "/dev/null", params)
    except RuntimeError as e:
        found[number] = None
        print(f"file type {number}: {e} {''.join(told)[-300:]}", file=sys.stderr)
        continue
    found[number] = {name: kind.lower() for name, kind in LINE.findall("".join(told))}
print(json.dumps(found))
