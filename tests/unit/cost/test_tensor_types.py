"""Types of named tensors that a person asks for: read in one spelling, and held against the model."""

from __future__ import annotations

import pytest

from advisor.cost.gguf_mix import assign, quantized
from advisor.cost.quality import bands
from advisor.cost.tensor_types import TYPES, check, read, wants_imatrix
from advisor.errors import CATALOGUE, AdvisorError
from advisor.facts.words import EXIT_USAGE, format_options, mixed
from advisor.model.resolve import resolve
from advisor.model.tensors import tensors

LLAMA = resolve("meta-llama/Llama-3.1-8B-Instruct")
TENSORS = tensors(LLAMA)


def refused(method: str, fmt: str, *types: str) -> AdvisorError:
    with pytest.raises(AdvisorError) as e:
        check(LLAMA, TENSORS, method, fmt, types)
    assert CATALOGUE[e.value.code].exit_code == EXIT_USAGE
    assert e.value.hint and "MODEL" not in e.value.hint
    return e.value


def test_one_spelling_and_order() -> None:
    words = ("FFN_down=Q6_K", " attn_v=q8_0", "ffn_down=q6_k")
    assert read(words, "m") == ("attn_v=q8_0", "ffn_down=q6_k")
    assert read(tuple(reversed(words)), "m") == read(words, "m")
    assert read((), "m") == ()


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("ffn_down", "does not name tensors"),
        ("=q6_k", "does not name tensors"),
        ("a,b=q6_k", "does not name tensors"),
        ("\\S=q6_k", "does not name tensors"),
        ("ffn_down=q6_z", 'Did you mean "q6_k"'),
        ("ffn_down=mxfp4", "no type"),
        ("ffn_down=iq1_s", "no type"),
        ("(=q6_k", "no regular expression"),
    ],
)
def test_what_is_no_name_and_type_is_refused(word: str, says: str) -> None:
    with pytest.raises(AdvisorError) as e:
        read((word,), "m")
    assert e.value.code == "bad-option"
    assert says in e.value.message


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_is_given_to_the_tensors_that_are_named(kind: str) -> None:
    types = read((f"ffn_down={kind}",), "m")
    check(LLAMA, TENSORS, "gguf", "q4_k_m", types)
    given = {a.tensor.name: a.type for a in assign(LLAMA, TENSORS, mixed("q4_k_m", types), imatrix=False)}
    assert {given[f"blk.{i}.ffn_down.weight"] for i in range(LLAMA.layers)} == {kind}
    assert given["blk.0.ffn_up.weight"] == "q4_k"


def test_names_that_mean_nothing_are_told_what_there_is() -> None:
    error = refused("gguf", "q4_k_m", "fn_dwn=q6_k")
    assert error.code == "bad-option" and '"ffn_down"' in error.message
    assert "attn_q" in error.context[0] and "norm" not in error.context[0]
    # what is never quantized has no type to be given
    assert refused("gguf", "q4_k_m", "attn_norm=q6_k").code == "bad-option"
    assert not any("norm" in t.name for t in quantized(TENSORS))


def test_two_names_of_one_tensor_must_agree() -> None:
    assert "blk.3.ffn_down.weight" in refused("gguf", "q4_k_m", "ffn_down=q6_k", "blk\\.3\\.=q8_0").message
    check(LLAMA, TENSORS, "gguf", "q4_k_m", ("ffn_down=q6_k", "blk\\.3\\.ffn_down=q6_k"))


@pytest.mark.parametrize(("method", "fmt"), [("awq", "w4a16-g128"), ("gguf", "f16"), ("gguf", "mxfp4")])
def test_what_is_not_quantized_to_gguf_types_has_none(method: str, fmt: str) -> None:
    error = refused(method, fmt, "ffn_down=q6_k")
    assert error.code == "contradictory-options" and fmt in error.message
    check(LLAMA, TENSORS, method, fmt, ())


def test_tensors_that_are_not_known_yet_are_not_judged() -> None:
    check(LLAMA, (), "gguf", "q4_k_m", ("no_such_name=q6_k",))


def test_an_importance_matrix_is_made_where_any_type_wants_one() -> None:
    assert not wants_imatrix("q4_k_m") and not wants_imatrix("q4_k_m:ffn_down=q6_k")
    assert wants_imatrix("q4_k_m:ffn_down=q3_k") and wants_imatrix("iq4_xs:ffn_down=q8_0")


def test_limits_of_quality_are_those_of_the_lossiest_type() -> None:
    def limit(fmt: str) -> float:
        return bands(LLAMA.params, "gguf", fmt, imatrix=False)["kld"].fail

    assert limit("q5_k_m:ffn_down=q3_k") == limit("q3_k_m") > limit("q5_k_m")
    assert limit("q5_k_m:ffn_down=q8_0") == limit("q5_k_m")


def test_a_mix_is_asked_for_by_its_options() -> None:
    assert format_options("q5_k_m") == "--format q5_k_m"
    assert format_options("q5_k_m:attn_v=q8_0,ffn_down=q6_k") == (
        "--format q5_k_m --tensor-type 'attn_v=q8_0' --tensor-type 'ffn_down=q6_k'"
    )
