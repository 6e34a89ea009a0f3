"""What a hub says of a repository: used or refused, and kept for when there is no network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.errors import AdvisorError
from advisor.execute.hub import metadata
from advisor.execute.hub.record import from_information
from advisor.model.hubref import HubRef, parse
from tests.support.fake_hub import FakeHub
from tests.support.fake_hub_models import no_tokens
from tests.unit.execute.hub_bench import Bench


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    no_tokens(monkeypatch, tmp_path)
    with FakeHub() as server:
        yield Bench(server, tmp_path)


def test_what_was_read_is_kept_for_later(bench: Bench) -> None:
    bench.add()
    known, ref = bench.known()
    online = metadata.facts(known, ref)
    asked = len(bench.server.seen)
    record = bench.library.find(ref)
    assert record is not None
    again = metadata.facts(metadata.read(None, bench.library, record, ref), ref)
    assert again == online
    assert len(bench.server.seen) == asked
    pinned = parse(online.ref)
    assert pinned is not None
    assert bench.library.find(pinned) == record
    assert bench.library.find(HubRef("me/Tiny", "v2")) is None


def test_what_is_not_kept_is_named_offline(bench: Bench) -> None:
    bench.add()
    ref = HubRef("me/Tiny")
    record = metadata.resolve(bench.hub, bench.library, ref)
    with pytest.raises(AdvisorError) as e:
        metadata.read(None, bench.library, record, ref)
    assert (e.value.code, e.value.data["missing"]) == ("offline", "me/Tiny/config.json")


def test_a_damaged_record_is_asked_for_again(bench: Bench) -> None:
    bench.add()
    record = bench.known()[0].record
    (bench.library.folder(record).parent / "record.json").write_text("{")
    assert bench.library.find(HubRef("me/Tiny")) is None
    assert bench.facts().revision == record.commit


@pytest.mark.parametrize(
    "change",
    [
        {"sha": None},
        {"sha": "main"},
        {"id": "../../etc"},
        {"id": 5},
        {"siblings": None},
        {"siblings": [{"rfilename": 5}]},
        {"siblings": ["x"]},
    ],
)
def test_descriptions_that_cannot_be_used(change: dict[str, Any]) -> None:
    good = {"sha": "a" * 40, "id": "o/n", "siblings": [{"rfilename": "config.json", "size": 3}]}
    assert from_information(good, "o/n", "https://h").files[0].bytes == 3
    with pytest.raises(AdvisorError) as e:
        from_information({**good, **change}, "o/n", "https://h")
    assert e.value.code == "integrity"


KEYS = st.sampled_from(["sha", "id", "siblings", "rfilename", "lfs", "size", "blobId", "sha256", "cardData"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(KEYS, x, max_size=6),
)


@given(ANYTHING)
def test_any_description_is_used_or_refused(found: Any) -> None:
    if not isinstance(found, dict):
        found = {"siblings": found}
    try:
        from_information({"sha": "a" * 40, "id": "o/n", **found}, "o/n", "https://h")
    except AdvisorError as e:
        assert e.code == "integrity"
