"""Parts of files: the beginning of one that is read over the network, and the hash of one that comes in pieces."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from advisor.execute.hub.digest import Digest
from advisor.execute.hub.prefix import Prefix
from advisor.execute.hub.record import RemoteFile


def test_a_prefix_fetches_each_byte_once_and_no_more_than_needed() -> None:
    raw = hashlib.sha512(b"x").digest() * 40_000
    asked: list[tuple[int, int]] = []

    def part(start: int, stop: int) -> bytes:
        asked.append((start, stop))
        return raw[start:stop]

    p = Prefix(len(raw), part)
    assert p.read(10) == raw[:10]
    assert asked == [(0, 256 << 10)]
    p.seek(300_000)
    assert p.read(5) == raw[300_000:300_005]
    p.seek(-10, 2)
    assert p.tell() == len(raw) - 10
    p.seek(20)
    assert p.read(4) == raw[20:24]
    assert [a[0] for a in asked] == [0, *(a[1] for a in asked[:-1])]
    assert p.held == raw[: len(p.held)]
    p.seek(0)
    assert p.read() == raw


@given(st.binary(max_size=300), st.integers(0, 300))
def test_digests_are_sha256_and_gits(raw: bytes, cut: int) -> None:
    git = hashlib.sha1(b"blob %d\0" % len(raw) + raw).hexdigest()
    sha = hashlib.sha256(raw).hexdigest()
    for file in (RemoteFile(path="x", bytes=len(raw), sha256=sha), RemoteFile(path="x", bytes=len(raw), git_sha1=git)):
        d = Digest(file)
        d.update(raw[:cut])
        d.update(raw[cut:])
        assert (d.right, d.sha256) == (True, sha)
        d.update(b"!")
        assert d.right is False
        assert d.wrong("o/n").code == "integrity"
        d.reset()
        d.update(raw)
        assert d.right is True
    assert Digest(RemoteFile(path="x")).right is None
