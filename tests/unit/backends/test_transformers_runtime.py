"""transformers as a runtime: what it claims, its command line, readiness, logs; and the parts of its runners."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from advisor.backends.base import ServeRequest
from advisor.backends.registry import runtime
from advisor.errors import AdvisorError
from advisor.facts.base import loads
from advisor.facts.plan import Settings
from advisor.facts.recipe import Recipe
from tests.unit.backends.support import runner

LOADING = runner("loading")
SERVE = runner("serve_transformers")
PROTOCOL = runner("protocol")

# As serve_transformers.py wrote them with transformers 5.23, torch 2.13 and bitsandbytes 0.50 on a CPU, except those
# of devices, which are in the wording of torch and bitsandbytes.
LOGS = {
    "port-taken": "error: 127.0.0.1:18790 cannot be bound: [Errno 98] Address already in use\n",
    "unknown-architecture": "error: [load-failed] ValueError: The checkpoint you are trying to load has model type "
    "`foo_moe` but Transformers does not recognize this architecture. This could be because of an issue\n",
    "pickle-refused": "protocol.Failed: The weights in /m are pickles (pytorch_model.bin); they are not read.\n"
    "error: [pickle-refused] The weights in /m are pickles (pytorch_model.bin); they are not read.\n",
    "file-incomplete": "error: [load-failed] SafetensorError: Error while deserializing header: incomplete metadata, "
    "file not fully covered\n",
    "format-unknown": "error: [runtime-unfit] Checkpoints quantized by gptq are not loaded here, only bitsandbytes.\n",
    "file-missing": "error: [file-not-found] There is no checkpoint with a config.json in /m.\n",
    "illegal-recipe": "error: [illegal-recipe] Group size 160 does not divide the 331776 weights of q_proj.\n",
    "device-missing": "error: [runtime-unfit] torch 2.13.0+cpu sees no device 'cuda' here.\n",
    "remote-code-refused": "error: [load-failed] ValueError: The repository /m contains custom code which must be "
    "executed to correctly load the model. Please pass the argument `trust_remote_code=True` to allow custom code\n",
    "out-of-memory": "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
    "memory: you tried to allocate 56623104 bytes. Error code 12 (Cannot allocate memory)\n",
    "device-out-of-memory": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB. GPU 0 has a "
    "total capacity of 7.60 GiB\n",
    "kernels-missing": "Could not load bitsandbytes native library: libbitsandbytes_cuda130.so: cannot open shared "
    "object file: No such file or directory\n",
    "no-chat-template": "POST '/v1/chat/completions' 400 no_chat_template 0+0 tokens 0.01 s\n",
    "context-exceeded": "POST '/v1/chat/completions' 400 context_length_exceeded 0+0 tokens 0.01 s\n",
    "package-missing": "error: [load-failed] ModuleNotFoundError: No module named 'hqq'\n",
    "load-failed": "error: [load-failed] KeyError: 'model.norm.weight'\n",
}
HEALTHY = (
    'loaded: {"dtype": "bfloat16", "modules": {"Embedding": 1, "Linear4bit": 210, "Linear": 1}, "quantized": 210, '
    '"kept": ["lm_head"], "bytes": 111692152, "quantization": {"method": "nf4", "bits": 4, "group_size": 64}}\n'
    "quantized 210 of 210 matrices\nserving m on 127.0.0.1:8080\n"
    "POST '/v1/chat/completions' 200 31+12 tokens 1.20 s\nPOST '/v1/chat/completions' 401 invalid_api_key 0+0 tokens\n"
)


def request(**more: Any) -> ServeRequest:
    fields: dict[str, Any] = {
        "settings": Settings(context=4096, threads=3, ubatch=256),
        "model_path": "/m/ckpt",
        "model_name": "name",
        "host": "127.0.0.1",
        "port": 8123,
        "python": "/env/bin/python",
        "runner": "/x/serve_transformers.py",
        "method": "none",
        "format": "bf16",
    }
    return ServeRequest(**{**fields, **more})


def test_the_command_is_one_that_the_runner_takes() -> None:
    recipe = Recipe(method="hqq", format="hqq4-g64", quantizer="hqq", bits=4, group_size=64, at_load=True)
    command = runtime("transformers").serve(
        request(method="hqq", format="hqq4-g64", recipe=recipe, api_key_file="/k/api-key")
    )
    assert command.argv[:5] == ("/env/bin/python", "-I", "-X", "utf8", "/x/serve_transformers.py")
    a = SERVE.arguments(list(command.argv[5:]))
    assert (a.model, a.alias, a.host, a.port) == ("/m/ckpt", "name", "127.0.0.1", 8123)
    assert (a.context, a.batch, a.threads, a.device, a.dtype) == (4096, 256, 3, "cpu", "auto")
    assert a.api_key_file == "/k/api-key"
    assert loads(Recipe, a.recipe) == recipe
    assert command.env["OMP_NUM_THREADS"] == "3"
    assert command.env["HF_HUB_OFFLINE"] == "1"


def test_a_saved_checkpoint_is_not_quantized_again() -> None:
    recipe = Recipe(method="nf4", format="nf4", quantizer="bitsandbytes", bits=4)
    argv = runtime("transformers").serve(request(method="nf4", format="nf4", recipe=recipe)).argv
    assert "--recipe" not in argv
    assert "--api-key-file" not in argv


@pytest.mark.parametrize(
    ("method", "fmt", "device", "dtype"),
    [
        ("none", "bf16", "nvidia", "bf16"),
        ("none", "f16", "nvidia", "f16"),
        ("none", "f16", "cpu", "auto"),
        ("nf4", "nf4", "nvidia", "auto"),
    ],
)
def test_the_type_follows_the_plan_on_devices(method: str, fmt: str, device: str, dtype: str) -> None:
    command = runtime("transformers").serve(request(method=method, format=fmt, device=device))
    a = SERVE.arguments(list(command.argv[5:]))
    assert (a.dtype, a.device) == (dtype, device)


def test_each_of_several_slots_has_its_share_of_the_context() -> None:
    command = runtime("transformers").serve(request(settings=Settings(context=4096, parallel=4)))
    a = SERVE.arguments(list(command.argv[5:]))
    assert (a.context, a.threads) == (1024, None)
    assert "OMP_NUM_THREADS" not in command.env


def test_a_quantized_cache_is_refused() -> None:
    with pytest.raises(AdvisorError, match="q8_0") as e:
        runtime("transformers").serve(request(settings=Settings(context=4096, kv_type="q8_0")))
    assert e.value.code == "not-available"


def test_what_is_claimed_is_what_loads_without_gptqmodel() -> None:
    c = runtime("transformers").capabilities()
    assert c.executable
    assert c.needs["cpu"] == ()
    assert all(c.loads(m, f) for m, f in (("none", "bf16"), ("nf4", "nf4"), ("int8", "int8"), ("hqq", "hqq4-g64")))
    assert not any(c.loads(m, "w4a16-g64") for m in ("gptq", "awq"))


@pytest.mark.parametrize(
    ("status", "body", "ready"),
    [
        (200, b'{"status": "ok"}', True),
        (200, b'{"status": "loading model"}', False),
        (503, b'{"status": "ok"}', False),
        (200, b"", False),
        (200, b"[1]", False),
    ],
)
def test_ready(status: int, body: bytes, ready: bool) -> None:
    assert runtime("transformers").ready(status, body) is ready


@pytest.mark.parametrize("code", sorted(LOGS))
def test_diagnosis(code: str) -> None:
    found = runtime("transformers").diagnose(LOGS[code])
    assert found is not None
    assert found.code == code
    assert found.remedy


def test_a_healthy_log_is_no_finding() -> None:
    assert runtime("transformers").diagnose(HEALTHY) is None


# -- the parts of the runners that need no torch -----------------------------------------------------------------------


def checkpoint(folder: Path, config: object, *files: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for name in files:
        header = b"{}"
        (folder / name).write_bytes(struct.pack("<Q", len(header)) + header)
    return folder


def refused(folder: Path, **more: Any) -> str:
    with pytest.raises(PROTOCOL.Failed) as e:
        LOADING.load(folder, **more)
    return str(e.value.code)


def test_what_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    llama = {"model_type": "llama"}
    assert refused(tmp_path / "gone") == "file-not-found"
    assert refused(checkpoint(tmp_path / "pickles", llama, "pytorch_model.bin")) == "pickle-refused"
    assert refused(checkpoint(tmp_path / "bare", llama)) == "missing-part"
    assert refused(checkpoint(tmp_path / "broken", "{", "model.safetensors")) == "untrusted-model-config"
    assert refused(checkpoint(tmp_path / "list", [], "model.safetensors")) == "untrusted-model-config"
    gptq = {**llama, "quantization_config": {"quant_method": "gptq"}}
    assert refused(checkpoint(tmp_path / "gptq", gptq, "model.safetensors")) == "runtime-unfit"
    saved = {**llama, "quantization_config": {"quant_method": "bitsandbytes"}}
    again = {"method": "nf4", "at_load": True}
    assert refused(checkpoint(tmp_path / "saved", saved, "model.safetensors"), recipe=again) == "illegal-recipe"
    awq = {"method": "awq", "at_load": True}
    assert refused(checkpoint(tmp_path / "awq", llama, "model.safetensors"), recipe=awq) == "illegal-recipe"


def test_matrices_that_stay_in_16_bits_are_named_whole_or_by_their_last_part() -> None:
    names = ["model.layers.0.mlp.up_proj", "model.layers.0.mlp.gate", "model.layers.1.mlp.up_proj", "lm_head"]
    kept = LOADING.hqq_targets(names, ["lm_head", "gate", "model.layers.1"])
    assert kept == ["model.layers.0.mlp.up_proj"]


class ByteTokenizer:
    """One token a byte."""

    def decode(self, ids: list[int], **_: object) -> str:
        return bytes(ids).decode(errors="replace")


def test_bytes_of_a_character_are_held_back_until_it_is_whole() -> None:
    prompt, text = list("Où".encode()), "naïve 部署 🙂"
    words = SERVE.Words(ByteTokenizer(), prompt)
    got = [words.push(b) for b in text.encode()]
    assert "".join(got) == text
    assert not any("\ufffd" in piece for piece in got)
    cut = SERVE.Words(ByteTokenizer(), prompt)
    assert cut.push("部".encode()[0]) == ""
    assert cut.push("部".encode()[1], last=True) == "\ufffd"


def test_keys_are_read_one_a_line(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("one\n\n two \n")
    assert SERVE.keys(str(file)) == ["one", "two"]
    assert SERVE.keys(None) == []
