"""A fake hub with a cache and a store of models beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from advisor.errors import AdvisorError
from advisor.events import Cancel, Event
from advisor.execute.hub import fetch, metadata
from advisor.execute.hub.access import Access
from advisor.execute.hub.client import Hub
from advisor.execute.hub.metadata import Known
from advisor.execute.hub.record import Library
from advisor.execute.store import Store
from advisor.facts.model import ModelFacts
from advisor.model.hubref import HubRef, parse
from tests.support.fake_hub import FakeHub
from tests.support.fake_hub_models import QUICK, checkpoint
from tests.support.fake_hub_repos import Repo


class Bench:
    """A hub, a cache and a store."""

    def __init__(self, server: FakeHub, tmp: Path) -> None:
        self.server, self.tmp = server, tmp
        self.library = Library(tmp / "cache")
        self.store = Store(tmp / "cache" / "store" / "v1")
        self.told: list[Event] = []
        self.cancel = Cancel()

    @property
    def hub(self) -> Hub:
        return Hub(Access(self.server.endpoint), patience=QUICK, reporter=self.told.append, cancel=self.cancel)

    def add(self, name: str = "me/Tiny", **what: Any) -> Repo:
        return self.server.add(name, checkpoint(self.tmp / name.replace("/", "-"), **what))

    def known(self, text: str = "me/Tiny") -> tuple[Known, HubRef]:
        ref = parse(text)
        assert ref is not None
        record = metadata.resolve(self.hub, self.library, ref)
        return metadata.read(self.hub, self.library, record, ref), ref

    def facts(self, text: str = "me/Tiny") -> ModelFacts:
        return metadata.facts(*self.known(text))

    def fetch(self, text: str = "me/Tiny") -> tuple[Path, bool]:
        return fetch.fetch(self.hub, self.store, self.known(text)[0])

    def refused(self, text: str = "me/Tiny") -> AdvisorError:
        with pytest.raises(AdvisorError) as e:
            self.facts(text)
        return e.value
