"""Where the hub is and who asks; how long is waited for it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from advisor import settings as settings_module
from advisor.errors import AdvisorError
from advisor.facts.text import clean

if TYPE_CHECKING:
    from advisor.settings import Settings

OFFICIAL: Final = "https://huggingface.co"
# Hosts whose pages name the same models as the official hub.
_SAME: Final = frozenset(("https://huggingface.co", "https://hf.co", "https://www.huggingface.co"))
_LOOPBACK: Final = frozenset(("127.0.0.1", "::1", "localhost"))
_PORTS: Final = {"http": 80, "https": 443}

Origin = tuple[str, str, int]


def origin_of(url: str) -> Origin:
    """Scheme, host and port of an address; what a token is bound to.

    Raises:
        ValueError: not an http address.
    """
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError(f"not an http address: {clean(url, 80)}")
    return parts.scheme, parts.hostname.lower(), parts.port or _PORTS[parts.scheme]


@dataclass(frozen=True, slots=True)
class Access:
    """An endpoint of the hub (the official one or a mirror) and the token for it, which is never shown."""

    endpoint: str
    token: str | None = field(default=None, repr=False)

    def token_for(self, url: str) -> str | None:
        """The token, only for the endpoint itself, and never in clear text beyond this machine."""
        scheme, host, _ = here = origin_of(url)
        if self.token is None or here != origin_of(self.endpoint):
            return None
        return self.token if scheme == "https" or host in _LOOPBACK else None

    def without_token(self, text: str) -> str:
        """``text`` without the token, should a server have repeated it."""
        return text.replace(self.token, "[redacted]") if self.token else text

    def serves(self, origin: str) -> bool:
        """Whether the page of a model at ``origin`` speaks of this hub."""
        return origin.lower() in _SAME or origin_of(origin) == origin_of(self.endpoint)


def access_of(settings: Settings) -> Access:
    """The endpoint of the settings (``HF_ENDPOINT``) and the user's token.

    Raises:
        AdvisorError: ``bad-option`` for an endpoint that is no http address, or a token that cannot be one.
    """
    value = settings.values["hub_endpoint"]
    endpoint = str(value.value).strip().rstrip("/")
    try:
        origin_of(endpoint)
        parts = urlsplit(endpoint)
        good = not (parts.query or parts.fragment or parts.username or clean(endpoint, None) != endpoint)
    except ValueError:
        good = False
    if not good:
        raise AdvisorError(
            "bad-option",
            f"{value.origin}: hub_endpoint must be an http address without a login, like {OFFICIAL}.",
            hint="advisor config show",
        )
    return Access(endpoint, settings_module.hub_token())


@dataclass(frozen=True, slots=True)
class Patience:
    """Times in seconds. A connection that brings fewer than ``window_bytes`` in ``window_s`` of waiting is given up.

    ``tries`` failures in a row, without progress between them, end it. A server that asks to wait longer than
    ``longest_wait_s`` is not waited for. ``document_s`` bounds one short document from first byte to last.
    """

    reply_s: float = 30.0
    window_s: float = 30.0
    window_bytes: int = 16 << 10
    document_s: float = 60.0
    tries: int = 6
    first_wait_s: float = 1.0
    most_wait_s: float = 30.0
    longest_wait_s: float = 300.0

    def wait_s(self, failures: int, asked: float | None) -> float:
        """How long to wait after so many failures: what the server asked for, else doubling, with full jitter above
        half, so that many clients do not come back at once."""
        if asked is not None:
            return asked + random.uniform(0, 0.25)  # noqa: S311 - not a secret
        ceiling = min(self.most_wait_s, self.first_wait_s * 2.0 ** (failures - 1))
        return ceiling * random.uniform(0.5, 1.0)  # noqa: S311


TRANSFER: Final = Patience()
# Facts for a plan: somebody is waiting at the terminal.
BRIEF: Final = Patience(reply_s=15.0, window_s=15.0, tries=3, most_wait_s=4.0, longest_wait_s=20.0)
