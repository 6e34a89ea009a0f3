from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.deploy import ports
from advisor.errors import AdvisorError


@pytest.fixture
def taken() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        yield s.getsockname()[1]


def test_a_free_port_is_kept_and_a_taken_default_moves_on(taken: int) -> None:
    free = ports.choose("127.0.0.1", taken, explicit=False)
    assert free != taken
    assert ports.choose("127.0.0.1", free, explicit=True) == free
    assert ports.choose("127.0.0.1", free, explicit=False, avoid={free}) != free


def test_a_taken_port_that_was_named_is_an_error(taken: int) -> None:
    with pytest.raises(AdvisorError) as caught:
        ports.choose("127.0.0.1", taken, explicit=True)
    assert (caught.value.code, caught.value.data["port"]) == ("port-taken", taken)
    hinted = int(str(caught.value.hint).rsplit(" ", 1)[-1])
    assert not ports.is_taken("127.0.0.1", hinted)


def test_a_wildcard_listener_takes_the_port_of_loopback_too() -> None:
    with socket.socket() as s:
        s.bind(("0.0.0.0", 0))
        s.listen()
        assert ports.is_taken("127.0.0.1", s.getsockname()[1])


def test_a_port_just_closed_is_free() -> None:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as every server does
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = s.accept()
            accepted.close()
    assert not ports.is_taken("127.0.0.1", port)


@pytest.mark.parametrize("port", [-1, 0, 1, 80, 1023, 65536, 10**9])
@pytest.mark.parametrize("explicit", [True, False])
def test_ports_out_of_range(port: int, explicit: bool) -> None:
    with pytest.raises(AdvisorError) as caught:
        ports.choose("127.0.0.1", port, explicit=explicit)
    assert caught.value.code == "bad-option"
    assert str(port) in caught.value.message


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "\x1b[31m", "a" * 300])
def test_hosts_that_are_not_here(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_dns(name: str | None, *args: object, **kwargs: object) -> list[object]:
        if name == "192.0.2.1":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 8080))]
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("advisor.deploy.ports.socket.getaddrinfo", no_dns)
    with pytest.raises(AdvisorError) as caught:
        ports.choose(host, 8080, explicit=False)
    assert caught.value.code == "bad-option"
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize(
    ("host", "loopback", "url"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:8080"),
        ("127.1.2.3", True, "http://127.1.2.3:8080"),
        ("localhost", True, "http://localhost:8080"),
        ("::1", True, "http://[::1]:8080"),
        ("[::1]", True, "http://[::1]:8080"),
        ("0.0.0.0", False, "http://127.0.0.1:8080"),
        ("::", False, "http://[::1]:8080"),
        ("", False, "http://127.0.0.1:8080"),
        ("192.0.2.7", False, "http://192.0.2.7:8080"),
        ("example.org", False, "http://example.org:8080"),
    ],
)
def test_what_is_loopback_and_how_it_is_reached(host: str, loopback: bool, url: str) -> None:
    assert ports.is_loopback(host) is loopback
    assert ports.url(host, 8080) == url


@given(st.text(max_size=40))
def test_no_text_passes_for_loopback_by_accident(host: str) -> None:
    assert ports.is_loopback(host) is False or host.startswith(("127.", "localhost", "::1", "[", "0:"))


def test_who_listens_is_known(taken: int) -> None:
    assert ports.listens([os.getpid()], taken) in (True, None)
    assert ports.listens([1], taken) is not True
    assert ports.listens([os.getpid()], 1) in (False, None)
    assert ports.listens([], taken) in (False, None)
