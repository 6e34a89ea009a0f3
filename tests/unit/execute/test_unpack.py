from __future__ import annotations

import io
import tarfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.errors import AdvisorError
from advisor.execute import unpack


def archive(path: Path, *members: tuple[str, bytes | str]) -> Path:
    """A ``.tar.gz``; a member whose content is text is a link to it."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def test_wanted_members_only_and_stripped(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "a.tar.gz",
        ("top-1/setup.py", b"no"),
        ("top-1/vendor/x/convert.py", b"yes"),
        ("top-1/vendor/x/lib/a.py", b"a"),
        ("top-1/vendor/x/library.py", b"no"),
        ("top-1/elsewhere", "/etc/passwd"),
    )
    dest = tmp_path / "src"
    n = unpack.tar_members(path, dest, members=("vendor/x/convert.py", "vendor/x/lib/"), strip="vendor/x/")
    assert n == 2
    assert sorted(str(p.relative_to(dest)) for p in dest.rglob("*") if p.is_file()) == ["convert.py", "lib/a.py"]


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ((("t/v/a", "/etc/passwd"),), "untrusted-model-path"),
        ((("t/v/../../../evil", b"x"),), "untrusted-model-path"),
        ((("t/v/nul", b"x"),), "untrusted-model-path"),
        ((("t/w/a", b"x"),), "integrity"),
        ((), "integrity"),
    ],
)
def test_refused(tmp_path: Path, members: tuple[tuple[str, bytes | str], ...], code: str) -> None:
    path = archive(tmp_path / "a.tar.gz", *members)
    with pytest.raises(AdvisorError) as e:
        unpack.tar_members(path, tmp_path / "out" / "deep", members=("v/",), strip="v/")
    assert e.value.code == code
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("cut", [0, 5, 40, 100])
def test_cut_archives(tmp_path: Path, cut: int) -> None:
    path = archive(tmp_path / "a.tar.gz", ("t/v/a", bytes(range(256)) * 64))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(AdvisorError) as e:
        unpack.tar_members(path, tmp_path / "out", members=("v/",), strip="v/")
    assert e.value.code == "integrity"


@given(st.text(st.sampled_from("./ab\\:*\0 ~"), max_size=12))
def test_safe_paths_stay_below(name: str) -> None:
    try:
        path = unpack.safe_path(name)
    except AdvisorError as e:
        assert e.code == "untrusted-model-path"
        return
    assert not path.is_absolute()
    assert ".." not in path.parts
    assert PurePosixPath("/root", path).is_relative_to("/root")


@pytest.mark.parametrize(("size", "code"), [(3, "integrity"), (5, "integrity")])
def test_copy_wants_the_declared_size(tmp_path: Path, size: int, code: str) -> None:
    with pytest.raises(AdvisorError) as e:
        unpack.copy(io.BytesIO(b"four"), tmp_path / "x", size)
    assert e.value.code == code
