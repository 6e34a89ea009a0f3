"""A stand-in for llama.cpp's programs that answers as they do and really listens; bad habits by name.

``write(folder, ...)`` makes an executable ``llama-server`` (and ``llama-quantize``). The environment of a program under
test is scrubbed, so the habit is written into the script.
"""

from __future__ import annotations

import sys
from pathlib import Path

HELP = Path(__file__).resolve().parents[1] / "fixtures" / "llama"
SERVER = """#!{python} -I
import json, os, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
HABIT, VERSION, HELP, DEVICES = {habit!r}, {version!r}, {help!r}, {devices!r}
with open({calls!r}, "a") as f:
    f.write(" ".join(sys.argv[1:]) + "\\n")
if "--version" in sys.argv:
    sys.stderr.write(VERSION); sys.exit()
if "--help" in sys.argv:
    print(open(HELP).read()); sys.exit()
if "--list-devices" in sys.argv:
    print(DEVICES); sys.exit()
print("system_info: n_threads = 1 | CPU : " + " | ".join(f + " = 1" for f in {features!r}) + " |", flush=True)
if HABIT == "illegal-instruction":
    os.kill(os.getpid(), signal.SIGILL)
if HABIT == "missing-library":
    sys.exit("llama-server: error while loading shared libraries: libcudart.so.12: cannot open shared object file")
class Handler(BaseHTTPRequestHandler):
    def answer(self, body, status=200):
        raw = json.dumps(body).encode()
        self.send_response(status); self.send_header("Content-Length", str(len(raw))); self.end_headers()
        self.wfile.write(raw)
    def do_GET(self):
        self.answer({{"status": "ok"}})
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({{"tokens_predicted": 0 if HABIT == "empty" else 2}}, 500 if HABIT == "500" else 200)
    def log_message(self, *args):
        pass
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""
QUANTIZE = """#!{python} -I
import sys
habit = {habit!r}
if habit == "bad-quantizer":
    sys.exit("cannot")
open(sys.argv[2], "wb").write(b"junk" if habit == "garbage-quantizer" else b"GGUF" + bytes(1000))
"""
NEW = "version: 0.5.0-dev (build 0, commit 0c1e57098)\nbuilt with GNU 12.2.0 for Linux x86_64\n"
OLD = "version: 4719 (53dd4beb)\nbuilt with cc for x86_64-linux-gnu\n"
NO_DEVICES = "Available devices:\n  (none)\n"
CUDA_DEVICE = "Available devices:\n  CUDA0: A card (24000 MiB, 23000 MiB free)\n"


def write(
    folder: Path,
    *,
    habit: str = "",
    version: str = NEW,
    help_of: str = "0c1e57098",
    devices: str = NO_DEVICES,
    features: tuple[str, ...] = ("SSE3", "AVX", "AVX2", "FMA"),
    quantizer: bool = True,
) -> Path:
    """Make the programs; the folder. What the server was called with is in ``calls`` beside the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    server = folder / "llama-server"
    server.write_text(
        SERVER.format(
            python=sys.executable,
            habit=habit,
            version=version,
            help=str(HELP / f"help-{help_of}.txt"),
            devices=devices,
            features=features,
            calls=str(folder.parent / "calls"),
        )
    )
    server.chmod(0o755)
    if quantizer:
        (folder / "llama-quantize").write_text(QUANTIZE.format(python=sys.executable, habit=habit))
        (folder / "llama-quantize").chmod(0o755)
    return folder
