"""Serve a checkpoint folder with vLLM's own OpenAI server.

Started as ``ENV/bin/python -I serve_vllm.py [--api-key-file FILE] -- OPTIONS``: everything behind ``--`` is vLLM's own
(see ``advisor.backends.vllm.options``). ``/health`` answers 200 once the model is loaded. Exit status 1: it could not
start, with a last line ``error: ...``; 98: the port is taken.

The key is read from a file, stands in no argument list and in no environment, of this process or of those it starts,
and guards every path but ``/health`` (see ``guard``). vLLM's engine and worker processes stay in this process's group.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import runpy
import sys
from pathlib import Path

HERE = str(Path(__file__).resolve().parent)
ENTRY = "vllm.entrypoints.launchers.api_server.entry"
MODULE = "vllm.entrypoints.openai.api_server"  # where older and newer releases have their main program
WEIGHTS = ".safetensors"


def arguments(argv: list[str]) -> tuple[str | None, list[str]]:
    """The key file, and vLLM's options."""
    p = argparse.ArgumentParser(prog="serve_vllm", allow_abbrev=False)
    p.add_argument("--api-key-file")
    cut = argv.index("--") if "--" in argv else len(argv)
    return p.parse_args(argv[:cut]).api_key_file, argv[cut + 1 :]


def place(options: list[str]) -> argparse.Namespace:
    """What is served where: the part of vLLM's options that is looked at before it is started."""
    p = argparse.ArgumentParser(prog="serve_vllm", allow_abbrev=False)
    p.add_argument("--model", required=True)
    p.add_argument("--host", required=True)
    p.add_argument("--port", type=int, required=True)
    return p.parse_known_args(options)[0]


def folder_trouble(path: Path) -> str | None:
    """Why ``path`` cannot be served, or ``None``."""
    if not path.is_dir():
        return f"there is no folder {path}"
    if not (path / "config.json").is_file():
        return f"there is no file config.json in {path}"
    if not any(f.suffix == WEIGHTS for f in path.iterdir()):
        return f"there is no file of weights (*{WEIGHTS}) in {path}"
    return None


def main() -> None:
    """Serve until told to stop."""
    sys.path.insert(0, HERE)
    import serve_llama

    key_file, options = arguments(sys.argv[1:])
    a = place(options)
    if why := folder_trouble(Path(a.model)):
        serve_llama.stop(1, why)
    if why := serve_llama.port_is_free(a.host, a.port):
        serve_llama.stop(serve_llama.PORT_TAKEN, f"{a.host}:{a.port} cannot be bound: {why}")
    os.environ.pop("VLLM_API_KEY", None)
    if key_file is not None:
        import guard

        guard.set_keys(serve_llama.keys(key_file))
        options += ["--middleware", "guard.Guard"]
    sys.argv = [sys.argv[0], *options]
    try:
        known = importlib.util.find_spec(ENTRY) is not None
    except ModuleNotFoundError:
        known = False
    if known:
        importlib.import_module(ENTRY).main()
    else:
        runpy.run_module(MODULE, run_name="__main__")


# vLLM starts processes that import this file again.
if __name__ == "__main__":
    main()
