"""Run inside an environment with cyllama: quantize one file to many types. ``quantize_all.py SOURCE OUT NUMBER...``."""

from __future__ import annotations

import sys

from cyllama.llama.llama_cpp import LlamaModelQuantizeParams, model_quantize  # type: ignore[import-not-found]

source, out, *numbers = sys.argv[1:]
for number in numbers:
    params = LlamaModelQuantizeParams()
    params.nthread = 2
    params.ftype = int(number)
    params.allow_requantize = True
    if model_quantize(source, out.replace("NUMBER", number), params):
        sys.exit(f"file type {number} failed")
