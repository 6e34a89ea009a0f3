"""Serve a checkpoint with transformers: 16 bits, saved NF4 and INT8, or NF4, INT8 and HQQ quantized at load.

Started as ``ENV/bin/python -I serve_transformers.py --model FOLDER ...``; speaks the OpenAI API (``openai_server``) on
``--host``:``--port``. Logs go to standard error; the line ``loaded: {...}`` says what is really in memory. SIGTERM and
SIGINT stop it; exit status 0 then. Exit status 1: it could not start, with a last line ``error: [code] ...``; 98: the
port is taken. The key is read from a file and never stands in the argument list. Nothing is fetched from a hub.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent))
import protocol
from openai_requests import Ask, Refused
from openai_server import POLL_S, Server, Token

PORT_TAKEN = 98
PREFILL = 512  # prompt tokens that go through the network at once, which bounds the activations
GREEDY = 1e-4  # temperatures below are no sampling
TAIL = 6  # tokens of the prompt that are decoded with the first new one, so that its leading space is right


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    p = argparse.ArgumentParser(prog="serve_transformers", allow_abbrev=False)
    p.add_argument("--model", required=True, help="a checkpoint folder")
    p.add_argument("--alias", required=True, help="the name under which the API serves it")
    p.add_argument("--host", default="127.0.0.1")
    p.add_argument("--port", type=int, required=True)
    p.add_argument("--context", type=int, required=True, help="tokens of prompt and answer together")
    p.add_argument("--device", default="auto")
    p.add_argument("--dtype", choices=("auto", "bf16", "f16", "f32"), default="auto")
    p.add_argument("--recipe", help="JSON of the recipe to quantize by at load")
    p.add_argument("--threads", type=int)
    p.add_argument("--batch", type=int, default=PREFILL, help="prompt tokens at once")
    p.add_argument("--waiting", type=int, default=32, help="requests that may wait")
    p.add_argument("--api-key-file")
    return p.parse_args(argv)


def stop(code: int, line: str) -> NoReturn:
    """Say why and end."""
    sys.stderr.write(f"error: {line}\n")
    sys.stderr.flush()
    os._exit(code)


def ended(*_: object) -> NoReturn:
    """The handler of signals: whatever is loaded or generated, the process ends at once."""
    os.write(2, b"stopped\n")
    os._exit(0)


def keys(path: str | None) -> list[str]:
    """The keys in a file, one a line; no file, no key needed."""
    if path is None:
        return []
    try:
        found = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as e:
        stop(1, f"[file-unreadable] the key file cannot be read: {e}")
    if not found:
        stop(1, f"[file-unreadable] the key file {path} is empty")
    return found


class Words:
    """Turns tokens into text as they come; bytes of a character that is not complete are held back."""

    def __init__(self, tokenizer: Any, prompt: list[int]) -> None:
        self._tokenizer, self._ids = tokenizer, prompt[-TAIL:]
        self._prefix, self._read = 0, len(self._ids)

    def _decode(self, ids: list[int]) -> str:
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def push(self, token: int, *, last: bool = False) -> str:
        """The text that ``token`` completes."""
        self._ids.append(token)
        before = self._decode(self._ids[self._prefix : self._read])
        after = self._decode(self._ids[self._prefix :])
        if len(after) <= len(before) or (after.endswith("\ufffd") and not last):
            return ""
        self._prefix, self._read = self._read, len(self._ids)
        return after[len(before) :]


class TransformersEngine:
    """A loaded model as the server's engine. One generation at a time, in one thread of its own."""

    def __init__(self, model: Any, tokenizer: Any, report: dict[str, Any], *, context: int, batch: int) -> None:
        self.context, self.report = context, report
        self._model, self._tokenizer, self._batch = model, tokenizer, batch
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generate")
        own = model.generation_config.eos_token_id
        ends = set(own if isinstance(own, list) else [own]) | {tokenizer.eos_token_id}
        self._ends = sorted(e for e in ends if e is not None)

    def tokens(self, ask: Ask) -> list[int]:
        """The token ids of a chat by the model's own template, or of a prompt.

        Raises:
            Refused: 400, no template, a chat that the template does not take, or ids that the model does not have.
        """
        if isinstance(ask.prompt, list):
            if not all(0 <= t < self._model.config.vocab_size for t in ask.prompt):
                raise Refused(400, "invalid_token", f"Token ids are 0 to {self._model.config.vocab_size - 1}.")
            return ask.prompt
        if not ask.chat:
            return list(self._tokenizer(ask.prompt)["input_ids"])
        if not self._tokenizer.chat_template:
            raise Refused(400, "no_chat_template", "The model has no chat template; use /v1/completions.")
        try:
            text = self._tokenizer.apply_chat_template(ask.messages, add_generation_prompt=True, tokenize=False)
        except Exception as e:  # whatever a template raises is about the messages
            why = str(e).strip().splitlines()[0][:200] if str(e).strip() else type(e).__name__
            raise Refused(400, "chat_template", f"The model's chat template refuses the messages: {why}") from e
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def settings(self, ask: Ask, max_tokens: int) -> Any:
        """The generation configuration of a request: what it names, else the model's own values."""
        import copy

        config = copy.deepcopy(self._model.generation_config)
        own = float(config.temperature or 1.0) if config.do_sample else 1.0
        temperature = own if ask.temperature is None else ask.temperature
        config.do_sample = temperature >= GREEDY
        if config.do_sample:
            config.temperature = temperature
            config.top_p = config.top_p if ask.top_p is None else ask.top_p
        else:
            config.temperature = config.top_p = config.top_k = None
        config.max_length, config.max_new_tokens = None, max_tokens
        config.min_new_tokens = max_tokens if ask.ignore_eos else None
        config.eos_token_id = self._ends or None
        config.pad_token_id = config.pad_token_id if config.pad_token_id is not None else next(iter(self._ends), 0)
        config.prefill_chunk_size = self._batch
        return config

    def generate(self, ids: list[int], ask: Ask, max_tokens: int) -> Iterator[Token | None]:
        """Tokens as they come, ``None`` each quarter of a second without one; closing the iterator ends the work.

        Raises:
            Refused: 503, out of memory; 500, any other failure, whose traceback is in the log.
        """
        out: queue.Queue[Any] = queue.Queue()
        ended = threading.Event()
        job = self._worker.submit(self._work, ids, ask, max_tokens, out, ended)
        words, made = Words(self._tokenizer, ids), 0
        try:
            while made < max_tokens:
                try:
                    got = out.get(timeout=POLL_S)
                except queue.Empty:
                    yield None
                    continue
                if isinstance(got, BaseException):
                    raise _refusal(got)
                if got is None:
                    return
                made += 1
                last = made == max_tokens or got in self._ends
                finish = "stop" if got in self._ends else "length" if last else None
                yield Token(words.push(got, last=last), made, finish)
                if last:
                    return
        finally:
            ended.set()
            job.result()  # the next request begins when this one's memory is free

    def _work(self, ids: list[int], ask: Ask, max_tokens: int, out: queue.Queue[Any], ended: threading.Event) -> None:
        import torch

        class Ends:
            def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:
                return torch.full((ids.shape[0],), ended.is_set(), device=ids.device, dtype=torch.bool)

        class Streamer:
            prompt = True

            def put(self, value: Any) -> None:
                if self.prompt:
                    self.prompt = False
                    return
                for token in value.flatten().tolist():
                    out.put(token)

            def end(self) -> None:
                out.put(None)

        try:
            if ask.seed is None:
                torch.seed()
            else:
                torch.manual_seed(ask.seed)
            given = torch.tensor([ids], device=self._model.device)
            with torch.inference_mode():
                self._model.generate(
                    given,
                    attention_mask=torch.ones_like(given),
                    generation_config=self.settings(ask, max_tokens),
                    stopping_criteria=[Ends()],
                    streamer=Streamer(),
                )
        except Exception as e:
            traceback.print_exc()
            out.put(e)


def _refusal(e: BaseException) -> Refused:
    text = str(e).strip()
    if isinstance(e, MemoryError) or "OutOfMemory" in type(e).__name__ or "can't allocate memory" in text:
        return Refused(503, "out_of_memory", "There was not enough memory for this request.")
    return Refused(500, "generation_failed", f"The model failed: {type(e).__name__}: {text[:200]}")


def start(a: argparse.Namespace, server: Server) -> None:
    """Load the model, let it make one token, and hand it to the server.

    Raises:
        protocol.Failed: it is not loaded here.
    """
    import loading

    recipe = json.loads(a.recipe) if a.recipe else None
    loaded = loading.load(a.model, recipe=recipe, device=a.device, dtype=a.dtype, threads=a.threads, progress=_tell)
    sys.stderr.write(f"loaded: {json.dumps(loaded.report)}\n")
    sys.stderr.flush()
    engine = TransformersEngine(loaded.model, loaded.tokenizer, loaded.report, context=a.context, batch=max(1, a.batch))
    ask = Ask(False, [], [0], 1, 0.0, None, None, (), stream=False, usage=False, ignore_eos=True)
    list(engine.generate([0], ask, 1))
    server.serve_model(engine)
    sys.stderr.write(f"serving {a.alias} on {a.host}:{server.server_port}\n")
    sys.stderr.flush()


def _tell(done: int, total: int) -> None:
    if done % 10 == 0 or done == total:
        sys.stderr.write(f"quantized {done} of {total} matrices\n")
        sys.stderr.flush()


def main(argv: list[str] | None = None) -> None:
    """Start, serve until told to stop, stop."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    a = arguments(argv)
    try:
        server = Server(a.host, a.port, model=a.alias, keys=keys(a.api_key_file), waiting=max(0, a.waiting))
    except OSError as e:
        stop(PORT_TAKEN, f"{a.host}:{a.port} cannot be bound: {e}")

    def begin() -> None:
        try:
            start(a, server)
        except BaseException as e:  # whatever it is, it ends the process
            traceback.print_exc()
            if isinstance(e, protocol.Failed):
                stop(1, f"[{e.code}] {e.message}")
            stop(1, f"[load-failed] {type(e).__name__}: {next(iter(str(e).splitlines()), '')}")

    # Not by an event that the main thread waits for: a handler that runs while the wait holds the event's lock would
    # wait for that lock for ever.
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, ended)
    threading.Thread(target=begin, daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
