"""A stand-in for a model server with an OpenAI-like API, and with bad habits on request. Standard library only."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def parse(argv: list[str]) -> argparse.Namespace:
    p = argparse.ArgumentParser()
    p.add_argument("--host", default="127.0.0.1")
    p.add_argument("--port", type=int, required=True)
    p.add_argument("--model", default="fake")
    p.add_argument("--exit", type=int, help="print a line and end at once with this code")
    p.add_argument("--die-by", type=int, help="end at once by this signal")
    p.add_argument("--never-ready", action="store_true", help="answer 503 for ever")
    p.add_argument("--never-listen", action="store_true", help="run without a socket")
    p.add_argument("--ready-after", type=float, default=0.0)
    p.add_argument("--hang-on-term", action="store_true")
    p.add_argument("--grandchildren", help="start two helpers, one of them in its own session; pids go to this file")
    p.add_argument("--flood", type=int, default=0, help="write so many bytes to standard output first")
    p.add_argument("--flood-on-get", type=int, default=0, help="write so many bytes at each GET /flood")
    p.add_argument("--close-output", action="store_true")
    p.add_argument("--key-file", help="require this key")
    p.add_argument("--reply", choices=["good", "500", "garbage", "empty", "repeat", "drip", "truncated", "redirect"])
    p.add_argument("--metrics", action="store_true", help="taken, and nothing else")
    p.add_argument("--print", help="write this line to standard output first")
    p.add_argument("--timings", action="store_true", help="add llama.cpp's timings")
    p.add_argument("--no-usage", action="store_true")
    p.add_argument("--allocate", type=int, default=0, help="hold so many bytes of memory")
    return p.parse_args(argv)


class Handler(BaseHTTPRequestHandler):
    options: argparse.Namespace
    begun: float
    key: str | None = None

    def log_message(self, format: str, *args: object) -> None:
        print("request:", format % args, flush=True)

    def send(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def allowed(self) -> bool:
        if self.key is None or self.headers.get("Authorization") == f"Bearer {self.key}":
            return True
        self.send(401, b'{"error": {"message": "no key"}}')
        return False

    def do_GET(self) -> None:
        if self.path == "/flood":
            pour(self.options.flood_on_get)
            self.send(200, b"{}")
        elif self.path == "/die":
            os._exit(9)
        elif self.path == "/out-of-memory":
            print("ggml_aligned_malloc: insufficient memory (attempted to allocate 180.00 MB)", flush=True)
            os._exit(1)
        elif not self.allowed():
            return
        elif self.options.never_ready or time.monotonic() - self.begun < self.options.ready_after:
            self.send(503, b'{"error": {"message": "Loading model"}}')
        elif self.options.reply == "redirect":
            self.send_response(302)
            self.send_header("Location", "/health-elsewhere")
            self.end_headers()
        else:
            self.send(200, b'{"status": "ok"}')

    def answer(self, request: dict[str, object]) -> str:
        if self.options.reply == "empty":
            return ""
        if self.options.reply == "repeat":
            return "!!!!!!!!!!!!!!!!!!!!!!!!"
        return "Paris is the capital of France."

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.allowed():
            return None
        reply = self.options.reply
        if reply == "500":
            return self.send(500, b'{"error": {"message": "\x1b[31mout of luck"}}')
        if reply == "garbage":
            return self.send(200, b"\xff\xfenot json\x00" * 10)
        if reply == "truncated":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            return None
        if reply == "drip":
            self.send_response(200)
            self.end_headers()
            for _ in range(200):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.02)
            return None
        is_chat = self.path.endswith("/chat/completions")
        prompt = request["messages"][-1]["content"] if is_chat else request["prompt"]
        text = self.answer(request)
        words = text.split()
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(words)}
        extra: dict[str, object] = {}
        if not self.options.no_usage:
            extra["usage"] = usage
        if self.options.timings:
            extra["timings"] = {
                "prompt_n": usage["prompt_tokens"],
                "prompt_ms": 250.0,
                "predicted_n": 11,
                "predicted_ms": 500.0,
            }
        if not request.get("stream"):
            inner = {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
            body = {"choices": [{"index": 0, "finish_reason": "stop", **inner}], **extra}
            return self.send(200, json.dumps(body).encode())
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for word in words:
            inner = {"delta": {"content": word + " "}} if is_chat else {"text": word + " "}
            self.event({"choices": [{"index": 0, **inner}]})
            time.sleep(0.01)
        self.event({"choices": [], **extra})
        self.wfile.write(b"data: [DONE]\n\n")
        return None

    def event(self, body: dict[str, object]) -> None:
        self.wfile.write(b"data: " + json.dumps(body).encode() + b"\n\n")
        self.wfile.flush()


def pour(n: int) -> None:
    line = b"x" * 99 + b"\n"
    while n > 0:
        os.write(1, line * 600)
        n -= len(line) * 600


def main(argv: list[str]) -> int:
    options = parse(argv)
    print("fake server starts \x1b[31mred\x1b[0m", flush=True)
    if options.print is not None:
        print(options.print, flush=True)
    if options.exit is not None:
        print(f"error: cannot load model, exit {options.exit}", flush=True)
        return int(options.exit)
    if options.die_by is not None:
        os.kill(os.getpid(), options.die_by)
    if options.hang_on_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ballast = bytearray(os.urandom(4096) * (options.allocate // 4096))
    if options.grandchildren:
        sleeper = [
            sys.executable,
            "-I",
            "-S",
            "-c",
            "import signal,time; signal.signal(15, signal.SIG_IGN); time.sleep(300)",
        ]
        near = subprocess.Popen(sleeper)
        far = subprocess.Popen(sleeper, start_new_session=True)
        Path(options.grandchildren).write_text(f"{near.pid} {far.pid}")
    pour(options.flood)
    if options.close_output:
        os.close(1)
        os.close(2)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
    if options.never_listen:
        time.sleep(300)

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        daemon_threads = True

    Handler.options, Handler.begun = options, time.monotonic()
    if options.key_file:
        Handler.key = Path(options.key_file).read_text().strip()
    try:
        server = Server((options.host, options.port), Handler)
    except OSError as e:
        print(f"error: couldn't bind to port {options.port}: {e}", flush=True)
        return 1
    server.serve_forever()
    return len(ballast)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
