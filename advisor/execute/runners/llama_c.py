"""llama.cpp's C library inside the xllamacpp wheel, by ctypes.

The layout of the by-value parameter structures belongs to one build, so the wheel is pinned, the structures are padded
beyond their real size, the fields used here are compared with their known defaults, and what a context reports is
compared with what was asked for. Fields: ``llama_model_params`` (two pointers, then ``n_gpu_layers``) and the first
nine numbers of ``llama_context_params``.
"""

from __future__ import annotations

import ctypes as c
import importlib.util
import sys
from pathlib import Path
from typing import Any

import protocol

P, I32, U32, BOOL = c.c_void_p, c.c_int32, c.c_uint32, c.c_bool
CONTEXT_FIELDS = (
    "n_ctx",
    "n_batch",
    "n_ubatch",
    "n_seq_max",
    "n_rs_seq",
    "n_outputs_max",
    "n_outputs_max_per_seq",
    "n_threads",
    "n_threads_batch",
)
CONTEXT_DEFAULTS = [512, 2048, 512, 1, 0, 0, 1, 4, 4]
PADDING = 1024


class ModelParams(c.Structure):
    """Opaque but for the number of layers on the device."""

    _fields_ = [("devices", P), ("overrides", P), ("n_gpu_layers", I32), ("rest", c.c_char * PADDING)]


class ContextParams(c.Structure):
    """Opaque but for its first nine numbers."""

    _fields_ = [*((name, U32) for name in CONTEXT_FIELDS), ("rest", c.c_char * PADDING)]


class Batch(c.Structure):
    """``llama_batch``; null positions and sequences mean: go on where the sequence ends, sequence 0."""

    _fields_ = [("n", I32), ("token", c.POINTER(I32)), ("embd", P), ("pos", P), ("n_seq", P), ("seq", P), ("logits", P)]


SIGNATURES: tuple[tuple[Any, ...], ...] = (
    ("llama_backend_init", None),
    ("llama_log_set", None, P, P),
    ("llama_model_default_params", ModelParams),
    ("llama_context_default_params", ContextParams),
    ("llama_model_load_from_file", P, c.c_char_p, ModelParams),
    ("llama_init_from_model", P, P, ContextParams),
    ("llama_model_get_vocab", P, P),
    ("llama_model_n_ctx_train", I32, P),
    ("llama_vocab_n_tokens", I32, P),
    ("llama_vocab_get_add_bos", BOOL, P),
    ("llama_vocab_bos", I32, P),
    ("llama_vocab_eos", I32, P),
    ("llama_vocab_is_eog", BOOL, P, I32),
    ("llama_tokenize", I32, P, c.c_char_p, I32, P, I32, BOOL, BOOL),
    ("llama_token_to_piece", I32, P, I32, c.c_char_p, I32, I32, BOOL),
    ("llama_decode", I32, P, Batch),
    ("llama_get_logits", c.POINTER(c.c_float), P),
    ("llama_get_memory", P, P),
    ("llama_memory_clear", None, P, BOOL),
    ("llama_memory_seq_rm", BOOL, P, I32, I32, I32),
    ("llama_n_ctx", U32, P),
    ("llama_n_batch", U32, P),
    ("llama_n_ubatch", U32, P),
    ("llama_n_threads_batch", I32, P),
    ("llama_free", None, P),
    ("llama_model_free", None, P),
)


def library() -> Path:
    """The shared library of the wheel.

    Raises:
        Failed: ``env-failed``.
    """
    spec = importlib.util.find_spec("xllamacpp")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        found = sorted(Path(folder).glob("xllamacpp*.so"))
        if found:
            return found[0]
    raise protocol.Failed("env-failed", "xllamacpp is not in this environment.")


class Engine:
    """The library with its log going to standard error (errors and warnings, or all of it), and to ``kept``."""

    def __init__(self, *, verbose: bool = False, keep: bool = False) -> None:
        self.lib = c.CDLL(str(library()))
        for name, result, *arguments in SIGNATURES:
            try:
                function = getattr(self.lib, name)
            except AttributeError as e:
                raise protocol.Failed("env-failed", f"The llama.cpp library here has no {name}.") from e
            function.restype, function.argtypes = result, arguments
        self.errors: list[str] = []
        self.kept: list[str] = []

        def log(level: int, text: bytes, _user: int | None) -> None:
            line = text.decode(errors="replace")
            if level == 4:
                self.errors = [*self.errors[-19:], line.strip()]
            if keep:
                self.kept.append(line)
            if verbose or level >= 3:
                sys.stderr.write(line)

        # Kept as an attribute: the library calls it for as long as it lives.
        self._log = c.CFUNCTYPE(None, c.c_int, c.c_char_p, P)(log)
        self.lib.llama_log_set(c.cast(self._log, P), None)
        self.lib.llama_backend_init()

    def open(self, path: Path, *, context: int, batch: int, threads: int, outputs: int) -> Model:
        """Load a model on the CPU with room for ``context`` tokens and ``outputs`` rows of logits.

        Raises:
            Failed: ``artifact-invalid`` where it does not load, ``env-failed`` where the library is another build.
        """
        lib = self.lib
        mp, cp = lib.llama_model_default_params(), lib.llama_context_default_params()
        seen = [getattr(cp, f) for f in CONTEXT_FIELDS]
        if seen != CONTEXT_DEFAULTS or mp.n_gpu_layers != -1:
            raise protocol.Failed(
                "env-failed", f"The llama.cpp library here is not the pinned build (defaults {seen})."
            )
        mp.n_gpu_layers = 0
        model = lib.llama_model_load_from_file(str(path).encode(), mp)
        if not model:
            raise protocol.Failed("artifact-invalid", f"llama.cpp does not load {path.name}.", self.errors)
        cp.n_ctx, cp.n_batch, cp.n_ubatch = context, batch, batch
        cp.n_outputs_max = cp.n_outputs_max_per_seq = outputs
        cp.n_threads = cp.n_threads_batch = threads
        ctx = lib.llama_init_from_model(model, cp)
        if not ctx:
            raise protocol.Failed("out-of-memory", f"llama.cpp makes no context for {path.name}.", self.errors)
        got = (lib.llama_n_batch(ctx), lib.llama_n_ubatch(ctx), lib.llama_n_threads_batch(ctx))
        if got != (batch, batch, threads) or lib.llama_n_ctx(ctx) < context:
            raise protocol.Failed("env-failed", f"The llama.cpp library here is not the pinned build (context {got}).")
        return Model(self, path, model, ctx)


class Model:
    """A loaded model with one context."""

    def __init__(self, engine: Engine, path: Path, model: int, ctx: int) -> None:
        # The engine holds the log callback, which the library calls until the model is closed.
        self.engine = engine
        self.lib, self.path, self._model, self._ctx = engine.lib, path, model, ctx
        self.vocab = self.lib.llama_model_get_vocab(model)
        self.n_vocab = self.lib.llama_vocab_n_tokens(self.vocab)
        self.n_batch = self.lib.llama_n_batch(ctx)
        self.adds_bos = self.lib.llama_vocab_get_add_bos(self.vocab)
        self.bos = self.lib.llama_vocab_bos(self.vocab)

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids, with the begin token where the model has one and ``special``."""
        raw = text.encode()
        buffer = (I32 * (len(raw) + 8))()
        n = self.lib.llama_tokenize(self.vocab, raw, len(raw), buffer, len(buffer), special, False)
        if n < 0:
            raise protocol.Failed("artifact-invalid", f"{self.path.name} does not tokenize the text ({n}).")
        return list(buffer[:n])

    def piece(self, token: int) -> bytes:
        """The bytes of one token."""
        buffer = c.create_string_buffer(256)
        n = self.lib.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, False)
        return buffer.raw[:n] if n > 0 else b""

    def forget(self) -> None:
        """Empty the KV cache."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self._ctx), True)

    def keep(self, n: int) -> bool:
        """Drop all but the first ``n`` tokens of the cache; ``False`` where it cannot, as of a recurrent state."""
        return bool(self.lib.llama_memory_seq_rm(self.lib.llama_get_memory(self._ctx), 0, n, -1))

    def decode(self, tokens: list[int], wanted: list[bool]) -> Any:
        """Feed tokens after what is in the cache; logits (flagged rows, vocabulary) as a float32 view.

        The view is valid until the next call.

        Raises:
            Failed: ``artifact-invalid``.
        """
        import numpy as np

        ids = (I32 * len(tokens))(*tokens)
        flags = (c.c_int8 * len(tokens))(*(int(w) for w in wanted))
        batch = Batch(len(tokens), ids, None, None, None, None, c.cast(flags, P))
        code = self.lib.llama_decode(self._ctx, batch)
        if code:
            raise protocol.Failed("artifact-invalid", f"{self.path.name} loads but does not decode (code {code}).")
        rows = sum(wanted)
        if not rows:
            return None
        return np.ctypeslib.as_array(self.lib.llama_get_logits(self._ctx), (rows, self.n_vocab))

    def greedy(self, prompt: str, limit: int) -> tuple[str, int]:
        """Continue a prompt by the likeliest tokens; text and number of logits that were not finite.

        Raises:
            Failed: ``artifact-invalid``, as ``decode``.
        """
        import numpy as np

        self.forget()
        tokens = self.tokenize(prompt)[: self.n_batch]
        flags = [False] * (len(tokens) - 1) + [True]
        out, bad = b"", 0
        for _ in range(limit):
            logits = self.decode(tokens, flags)[0]
            bad += int((~np.isfinite(logits)).sum())
            token = int(logits.argmax())
            if self.lib.llama_vocab_is_eog(self.vocab, token):
                break
            out += self.piece(token)
            tokens, flags = [token], [True]
        return out.decode(errors="replace"), bad

    def close(self) -> None:
        """Free context and model."""
        self.lib.llama_free(self._ctx)
        self.lib.llama_model_free(self._model)
