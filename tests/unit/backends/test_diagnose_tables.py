"""Tables of failures are compiled when a log is looked at: every expression of every backend is one."""

from __future__ import annotations

import pytest

from advisor.backends.registry import quantizers, runtimes


@pytest.mark.parametrize("name", sorted(runtimes()))
def test_a_log_without_a_failure_has_no_finding_of_a_runtime(name: str) -> None:
    assert runtimes()[name].diagnose("all is well") is None


@pytest.mark.parametrize("name", sorted(quantizers()))
def test_a_log_without_a_failure_has_no_finding_of_a_quantizer(name: str) -> None:
    assert quantizers()[name].diagnose("all is well") is None
