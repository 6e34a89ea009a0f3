"""llama.cpp's loader takes the tensors that follow from configurations: every name and every shape, no file written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from advisor import settings
from advisor.execute.dry_header import header
from advisor.execute.envs import Env, ensure
from advisor.execute.proc import run_runner
from advisor.model.architectures import from_config
from advisor.model.tensors import computed
from tests.unit.model.configurations import PUBLISHED
from tests.unit.model.test_families import EXPERTS, MLA, small

pytestmark = [pytest.mark.slow, pytest.mark.beside]
FOUR: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
# What no published model above has.
SMALL: dict[str, dict[str, Any]] = {
    t: small(t, **more)
    for t, more in {
        "nemotron": {},
        "arcee": {},
        "granite": {},
        "granitemoe": {"num_local_experts": 4},
        "granitemoeshared": {"num_local_experts": 4, "shared_intermediate_size": 32},
        "qwen2_moe": {**FOUR, "shared_expert_intermediate_size": 32},
        "hunyuan_v1_dense": {},
        "hunyuan_vl_text": {},
        "glm4v_text": {},
        "glm4v_moe_text": {**EXPERTS, "first_k_dense_replace": 1, "n_shared_experts": 1},
        "chatglm": {"add_qkv_bias": True},
        "phi": {},
        "gpt2": {"max_position_embeddings": 32},
        "gpt_neox": {},
        "bloom": {},
        "stablelm": {},
        "minicpm": {},
        "deepseek": {**EXPERTS, "n_shared_experts": 2, "first_k_dense_replace": 1},
        "exaone_moe": {**EXPERTS, "num_shared_experts": 1, "first_k_dense_replace": 1, "num_nextn_predict_layers": 1},
        "glm4_moe_lite": {**MLA, **EXPERTS, "q_lora_rank": 24, "n_shared_experts": 1, "num_nextn_predict_layers": 1},
        "glm_moe_dsa": {**MLA, **EXPERTS, "q_lora_rank": 24, "n_shared_experts": 1, "first_k_dense_replace": 1},
        "deepseek_v32": {**MLA, **EXPERTS, "q_lora_rank": 24, "n_shared_experts": 1},
        "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2},
    }.items()
}
CONFIGURATIONS = {**{name: p.config for name, p in PUBLISHED.items()}, **SMALL}


@pytest.fixture(scope="module")
def env(shared_home: Path) -> Env:
    return ensure("llama.cpp", settings=settings.load(env={"ADVISOR_HOME": str(shared_home)}))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_names_and_shapes(env: Env, tmp_path: Path, name: str) -> None:
    m = from_config(CONFIGURATIONS[name], name=name, ref=name)
    tensors = computed(m)
    request: dict[str, Any] = {"context": 1024, "parallel": 1, "batch": 512, "ubatch": 512, "kv_type": "f16"}
    request |= {
        "tensors": [[t.name, list(t.shape), "f16" if t.packed and len(t.shape) > 1 else "f32"] for t in tensors],
        "metadata": header(m),
    }
    said = run_runner(env, "dryload.py", request, step="dry load", log=tmp_path / "log", timeout_s=60)
    assert said["weights_bytes"] > m.params * 2 * 0.9
