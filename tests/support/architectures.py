"""Models of many architectures to hold predicted memory against the engine: header-only files, loaded dry.

Most are bundled profiles, by hub id; the rest are the published configurations of models that are not bundled.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from advisor.cost.llama_memory import memory
from advisor.execute.oracle import DryLoad
from advisor.facts.model import ModelFacts
from advisor.facts.plan import Settings
from advisor.model.architectures import from_config
from advisor.model.bundled import get
from advisor.model.tensors import tensors
from tests.support import shapes

MIB: Final = 1 << 20
# The engine's log has MiB with two digits: what a line can be off, with the sum over up to two lines.
ROUNDED: Final = 2 * MIB * 0.00501

CONFIGS: Final[dict[str, dict[str, Any]]] = {
    "ai21labs/Jamba-v0.1": {
        "model_type": "jamba",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 65536,
        "num_experts": 16,
        "num_experts_per_tok": 2,
        "attn_layer_period": 8,
        "attn_layer_offset": 4,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
        "mamba_dt_rank": 256,
        "max_position_embeddings": 262144,
    },
    "mistralai/Mamba-Codestral-7B-v0.1": {
        "model_type": "mamba2",
        "hidden_size": 4096,
        "num_hidden_layers": 64,
        "state_size": 128,
        "num_heads": 128,
        "head_dim": 64,
        "n_groups": 8,
        "conv_kernel": 4,
        "expand": 2,
        "vocab_size": 32768,
    },
    "tiiuae/falcon-mamba-7b": {
        "model_type": "falcon_mamba",
        "hidden_size": 4096,
        "num_hidden_layers": 64,
        "intermediate_size": 8192,
        "state_size": 16,
        "conv_kernel": 4,
        "time_step_rank": 256,
        "vocab_size": 65024,
        "tie_word_embeddings": False,
    },
    "moonshotai/Kimi-Linear-48B-A3B-Instruct": {
        "model_type": "kimi_linear",
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 27,
        "num_attention_heads": 32,
        "vocab_size": 163840,
        "num_experts": 256,
        "num_experts_per_token": 8,
        "moe_intermediate_size": 1024,
        "num_shared_experts": 1,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "linear_attn_config": {
            "head_dim": 128,
            "num_heads": 32,
            "short_conv_kernel_size": 4,
            "full_attn_layers": [4, 8, 12, 16, 20, 24, 27],
        },
    },
}


class Fixture(NamedTuple):
    """A model, its file type, and how it is served."""

    model: str
    fmt: str
    settings: Settings


FIXTURES: Final = (
    # Grouped-query attention, with and without biases, norms, experts.
    Fixture("meta-llama/Llama-3.1-8B-Instruct", "q4_k_m", Settings(context=8192)),
    Fixture("meta-llama/Llama-3.1-8B-Instruct", "q8_0", Settings(context=32768, parallel=4, kv_type="q8_0")),
    Fixture("Qwen/Qwen2.5-7B-Instruct", "q4_k_m", Settings(context=16384, kv_type="q4_0", ubatch=256)),
    Fixture("Qwen/Qwen3-30B-A3B", "q4_k_m", Settings(context=8192, parallel=2)),
    Fixture("mistralai/Mixtral-8x7B-Instruct-v0.1", "q4_0", Settings(context=4096)),
    Fixture("zai-org/GLM-4.5-Air", "q4_k_m", Settings(context=16384)),
    Fixture("microsoft/phi-2", "q8_0", Settings(context=2048, kv_type="f32")),
    Fixture("bigcode/starcoder2-7b", "q4_k_m", Settings(context=8000, kv_type="bf16")),
    Fixture("CohereLabs/c4ai-command-r-v01", "q4_k_m", Settings(context=5000)),
    # Sliding windows, chunks, shared caches, heads that differ by layer.
    Fixture("google/gemma-2-9b-it", "q4_k_m", Settings(context=8192)),
    Fixture("google/gemma-3-27b-it", "q4_k_m", Settings(context=32768, parallel=2)),
    Fixture("google/gemma-3n-E4B-it", "q8_0", Settings(context=16384)),
    Fixture("google/gemma-4-E2B-it", "q4_k_m", Settings(context=32768, kv_type="q8_0")),
    Fixture("google/gemma-4-31b-it", "q4_k_m", Settings(context=16384)),
    Fixture("openai/gpt-oss-20b", "q8_0", Settings(context=32768, parallel=3)),
    Fixture("CohereLabs/c4ai-command-r7b-12-2024", "q4_k_m", Settings(context=16384)),
    Fixture("allenai/Olmo-3-7B-Instruct", "q4_k_m", Settings(context=16384)),
    Fixture("LGAI-EXAONE/EXAONE-4.0-32B", "q4_k_m", Settings(context=8192, kv_type="q5_1")),
    Fixture("meta-llama/Llama-4-Scout-17B-16E-Instruct", "q4_k_m", Settings(context=32768)),
    # Compressed keys.
    Fixture("deepseek-ai/DeepSeek-V2-Lite-Chat", "q4_k_m", Settings(context=16384)),
    Fixture("deepseek-ai/DeepSeek-V3-0324", "q4_k_m", Settings(context=8192, kv_type="q8_0")),
    Fixture("deepseek-ai/DeepSeek-V3.2", "q4_k_m", Settings(context=4096)),
    # Recurrent states, alone and beside attention.
    Fixture("Qwen/Qwen3-Next-80B-A3B-Instruct", "q4_k_m", Settings(context=16384)),
    Fixture("Qwen/Qwen3.5-9B", "q4_k_m", Settings(context=32768, parallel=2)),
    Fixture("Qwen/Qwen3.5-35B-A3B", "q8_0", Settings(context=8192, kv_type="q8_0")),
    Fixture("ibm-granite/granite-4.0-h-tiny", "q4_k_m", Settings(context=16384, parallel=4)),
    Fixture("ibm-granite/granite-4.0-h-1b", "q8_0", Settings(context=4096, ubatch=1024)),
    Fixture("tiiuae/Falcon-H1-7B-Instruct", "q4_k_m", Settings(context=8192)),
    Fixture("tiiuae/Falcon-H1-0.5B-Instruct", "q8_0", Settings(context=6000, kv_type="iq4_nl")),
    Fixture("nvidia/NVIDIA-Nemotron-Nano-9B-v2", "q4_k_m", Settings(context=16384, parallel=2)),
    Fixture("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "q4_k_m", Settings(context=32768)),
    Fixture("LiquidAI/LFM2-1.2B", "q4_k_m", Settings(context=32768)),
    Fixture("LiquidAI/LFM2-8B-A1B", "q4_k_m", Settings(context=8192, kv_type="q5_0")),
    Fixture("ai21labs/Jamba-v0.1", "q4_k_m", Settings(context=16384)),
    Fixture("mistralai/Mamba-Codestral-7B-v0.1", "q4_k_m", Settings(context=4096, parallel=3)),
    Fixture("tiiuae/falcon-mamba-7b", "q8_0", Settings(context=4096)),
    Fixture("moonshotai/Kimi-Linear-48B-A3B-Instruct", "q4_k_m", Settings(context=16384)),
)


def facts(name: str) -> ModelFacts:
    """The facts of a model of this list."""
    if name in CONFIGS:
        return from_config(CONFIGS[name], name=name, ref=name)
    found = get(name)
    assert found is not None, name
    return found


class Compared(NamedTuple):
    """Bytes predicted and as the engine has them, of one part."""

    predicted: int
    engine: int

    @property
    def error(self) -> float:
        """Relative error; none where the engine's log cannot show it."""
        if abs(self.predicted - self.engine) <= ROUNDED:
            return 0.0
        return self.predicted / self.engine - 1 if self.engine else float("inf")


def compare(fixture: Fixture, engine: DryLoad) -> dict[str, Compared] | None:
    """Parts of memory by name, predicted and the engine's; ``None`` where the engine does not take the model.

    ``whole`` is weights, cache, state, work buffer and output. The weights are those of the header that the engine was
    given: it takes one only where every tensor is there, has the shape that it wants, and none is left over.
    """
    model = facts(fixture.model)
    told = engine(model, fixture.fmt, fixture.settings)
    if told is None:
        return None
    q = memory(
        model,
        tensors(model),
        fmt=fixture.fmt,
        settings=fixture.settings,
        machine=shapes.machine(),
        devices=("host",),
        as_is=False,
    )
    parts = {
        "kv": Compared(int(q.kv_cache.value), told.kv_cache_bytes),
        "state": Compared(int(q.state.value), told.state_bytes),
        "compute": Compared(int(q.compute.value), told.compute_bytes),
        "output": Compared(int(q.output.value), told.output_bytes),
    }
    weights = int(q.weights.value)
    whole = Compared(
        weights + sum(part.predicted for part in parts.values()), weights + sum(part.engine for part in parts.values())
    )
    return {**parts, "whole": whole}
