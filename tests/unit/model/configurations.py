"""Published models, cut down to what says how large they are, and sizes that were published."""

from __future__ import annotations

from typing import Final

from tests.unit.model.configurations_experts import WITH_EXPERTS
from tests.unit.model.terms import CHECKPOINT, HUB, Published, seen, terms, types

_PIXTRAL: Final = {"model_type": "pixtral", "hidden_size": 1024, "num_hidden_layers": 24, "intermediate_size": 4096}
_SIGLIP: Final = {"model_type": "siglip_vision_model", "hidden_size": 1152, "num_hidden_layers": 27, "image_size": 896}
_GEMMA4_SEEN: Final = {
    "model_type": "gemma4_vision",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 72,
    "standardize": True,
}
_COHERE: Final = 256_000


DENSE: Final[dict[str, Published]] = {
    "mistralai/Mistral-Small-3.2-24B-Instruct-2506": Published(
        seen("mistral3", terms("mistral", 40, 5120, 32, 8, 32_768, 131_072, head_dim=128), _PIXTRAL),
        23_572_403_200,
        "general.parameter_count of its GGUF file; 438,958,080 more in the vision file",
        None,
        24_011_361_280,
    ),
    "microsoft/Phi-4-mini-instruct": Published(
        terms("phi3", 32, 3072, 24, 8, 8192, 200_064, tie_word_embeddings=True),
        3_836_021_760,
        HUB,
    ),
    "google/gemma-3-4b-it": Published(
        seen("gemma3", terms("gemma3_text", 34, 2560, 8, 4, 10_240, 262_208, head_dim=256), _SIGLIP),
        3_880_263_168,
        CHECKPOINT.format("with the vision tower"),
        None,
        4_300_079_472,
    ),
    "google/gemma-3n-E4B-it": Published(
        terms("gemma3n_text", 35, 2048, 8, 2, 16_384, 262_400, layer_types=types(35, 5)),
        6.87e9,
        "github.com/ollama/ollama pull request 11286: 6.87B without images and sound",
    ),
    "google/gemma-3n-E2B-it": Published(
        terms("gemma3n_text", 30, 2048, 8, 2, [8192] * 30, 262_400, num_kv_shared_layers=10),
        4.46e9,
        "github.com/ollama/ollama pull request 11286: 4.46B without images and sound",
    ),
    "google/gemma-4-31B-it": Published(
        seen(
            "gemma4",
            terms(
                "gemma4_text",
                60,
                5376,
                32,
                16,
                21_504,
                262_144,
                layer_types=types(60, 6),
                hidden_size_per_layer_input=0,
                attention_k_eq_v=True,
                num_global_key_value_heads=4,
            ),
            _GEMMA4_SEEN,
        ),
        30.70e9,
        "github.com/ggml-org/llama.cpp pull request 21760: model params = 30.70 B; " + CHECKPOINT.format("with images"),
        None,
        31_273_088_876,
    ),
    "google/gemma-4-E4B-it": Published(
        terms(
            "gemma4_text",
            42,
            2560,
            8,
            2,
            10_240,
            262_144,
            layer_types=types(42, 6),
            hidden_size_per_layer_input=256,
            num_kv_shared_layers=18,
        ),
        7.52e9,
        "general.size_label of its GGUF file: 7.5B",
    ),
    "zai-org/GLM-4-9B-0414": Published(terms("glm4", 40, 4096, 32, 2, 13_696, 151_552), 9_400_279_040, HUB),
    "zai-org/glm-4-9b-chat-hf": Published(terms("glm", 40, 4096, 32, 2, 13_696, 151_552), 9_399_951_360, HUB),
    "CohereLabs/c4ai-command-r-v01": Published(
        terms("cohere", 40, 8192, 64, 64, 22_528, _COHERE), 34_980_831_232, CHECKPOINT.format("card: 35B")
    ),
    "CohereLabs/c4ai-command-r-plus": Published(
        terms("cohere", 64, 12_288, 96, 8, 33_792, _COHERE, use_qk_norm=True),
        103_810_674_688,
        CHECKPOINT.format("card: 104B"),
    ),
    "CohereLabs/c4ai-command-r7b-12-2024": Published(
        terms("cohere2", 32, 4096, 32, 8, 14_336, _COHERE), 8.03e9, "llama.cpp issue 10816: 8.03 B"
    ),
    "CohereLabs/c4ai-command-a-03-2025": Published(
        terms("cohere2", 64, 12_288, 96, 8, 36_864, _COHERE), 111_057_580_032, CHECKPOINT.format("card: 111B")
    ),
    "tiiuae/falcon-7b": Published(
        terms("falcon", 32, 4544, 71, 1, 18_176, 65_024), 6_921_720_704, CHECKPOINT.format("without the tied output")
    ),
    "tiiuae/Falcon3-7B-Instruct": Published(
        terms("llama", 28, 3072, 12, 4, 23_040, 131_072, head_dim=256), 7_455_550_464, HUB
    ),
    "bigcode/starcoder2-3b": Published(terms("starcoder2", 30, 3072, 24, 2, 12_288, 49_152), 3_030_371_328, HUB),
    "bigcode/starcoder2-15b": Published(
        terms("starcoder2", 40, 6144, 48, 4, 24_576, 49_152, tie_word_embeddings=False),
        15_957_889_024,
        HUB,
    ),
    "internlm/internlm2_5-7b-chat": Published(terms("internlm2", 32, 4096, 32, 8, 14_336, 92_544), 7_737_708_544, HUB),
    "internlm/internlm3-8b-instruct": Published(
        terms("internlm3", 48, 4096, 32, 2, 10_240, 128_512, head_dim=128), 8_804_241_408, HUB
    ),
    "baidu/ERNIE-4.5-0.3B-PT": Published(
        terms("ernie4_5", 18, 1024, 16, 2, 3072, 103_424, head_dim=128), 360_748_032, HUB
    ),
    "LGAI-EXAONE/EXAONE-3.5-7.8B-Instruct": Published(
        terms("exaone", 32, 4096, 32, 8, 14_336, 102_400), 7_818_448_896, HUB
    ),
    "LGAI-EXAONE/EXAONE-4.0-1.2B": Published(
        terms("exaone4", 30, 2048, 32, 8, 4096, 102_400, head_dim=64, tie_word_embeddings=True),
        1_279_391_488,
        HUB,
    ),
    "swiss-ai/Apertus-8B-Instruct-2509": Published(
        terms("apertus", 32, 4096, 32, 8, 21_504, 131_072), 8_053_338_176, HUB
    ),
    "allenai/OLMo-2-1124-7B-Instruct": Published(terms("olmo2", 32, 4096, 32, 32, 11_008, 100_352), 7_298_617_344, HUB),
    "allenai/Olmo-3-7B-Instruct": Published(terms("olmo3", 32, 4096, 32, 32, 11_008, 100_278), 7_298_011_136, HUB),
    "HuggingFaceTB/SmolLM3-3B": Published(terms("smollm3", 36, 2048, 16, 4, 11_008, 128_256), 3_075_098_624, HUB),
    "ByteDance-Seed/Seed-OSS-36B-Instruct": Published(
        terms("seed_oss", 64, 5120, 80, 8, 27_648, 155_136), 36_151_104_512, HUB
    ),
    "Qwen/Qwen2-VL-7B-Instruct": Published(
        terms("qwen2_vl", 28, 3584, 28, 4, 18_944, 152_064, vision_config={"embed_dim": 1280, "depth": 32}),
        7_615_616_512,
        CHECKPOINT.format("with the vision tower"),
        None,
        8_291_375_616,
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": Published(
        terms("qwen2_5_vl", 28, 3584, 28, 4, 18_944, 152_064, vision_config={"out_hidden_size": 3584}),
        7_615_616_512,
        CHECKPOINT.format("with the vision tower"),
        None,
        8_292_166_656,
    ),
    "llava-hf/llava-1.5-7b-hf": Published(
        seen(
            "llava",
            {"model_type": "llama", "vocab_size": 32_064},
            {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "patch_size": 14},
        ),
        6_738_939_904,
        CHECKPOINT.format("with the vision tower"),
        None,
        7_063_427_072,
    ),
    "HuggingFaceTB/SmolVLM-Instruct": Published(
        {
            **seen(
                "idefics3",
                terms("llama", 24, 2048, 32, 32, 8192, 49_155),
                {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "image_size": 384},
            ),
            "scale_factor": 3,
        },
        1_812_051_968,
        CHECKPOINT.format("with the vision tower"),
        None,
        2_246_272_880,
    ),
    "OpenGVLab/InternVL3-8B-hf": Published(
        seen(
            "internvl",
            terms("qwen2", 28, 3584, 28, 4, 18_944, 151_674),
            {"model_type": "internvl_vision", "hidden_size": 1024, "image_size": [448, 448], "patch_size": [14, 14]},
        ),
        7_612_820_992,
        CHECKPOINT.format("with the vision tower"),
        None,
        7_944_373_760,
    ),
    "Qwen/Qwen3-VL-8B-Instruct": Published(
        seen(
            "qwen3_vl",
            terms("qwen3_vl_text", 36, 4096, 32, 8, 12_288, 151_936),
            {"model_type": "qwen3_vl", "depth": 27, "hidden_size": 1152, "deepstack_visual_indexes": [8, 16, 24]},
        ),
        8_190_735_360,
        CHECKPOINT.format("with the vision tower"),
        None,
        8_767_123_696,
    ),
}
PUBLISHED: Final = {**DENSE, **WITH_EXPERTS}
