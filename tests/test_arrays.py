"""Arrays from outside: no header makes us allocate what is not there."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from popexd.arrays import read_arrays
from tests.fuzz.seeds import array

KINDS = st.sampled_from(("<f4", "<f8", "|b1", "|u1", "<i8", "<U5", ">f4"))


def packed(path: Path, **members: bytes) -> Path:
    """An archive of these bytes, compressed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def claiming(shape: str, kind: str = "'<f4'", body: bytes = b"") -> bytes:
    """An array whose header says so."""
    header = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


@given(values=KINDS.flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(max_dims=3, max_side=4))))
def test_it_reads_what_numpy_writes(tmp_path_factory: pytest.TempPathFactory, values: np.ndarray[Any, Any]) -> None:
    """Any shape and kind of number or text, in C's order and in Fortran's."""
    path = tmp_path_factory.getbasetemp() / "written.npz"
    for each in (values, np.asfortranarray(values)):
        np.savez_compressed(path, values=each)
        np.testing.assert_array_equal(read_arrays(path, ["values"])["values"], each)


@pytest.mark.parametrize(
    "data",
    [
        claiming("(1000000000000,)"),
        claiming("(1000000000000, 1000000000000)", body=b"x" * 64),
        claiming("(-1,)", body=b"x" * 4),
        claiming("(3,)", body=b"x" * 11),
        claiming("(2,)", body=b"x" * 11),
        claiming("(1,)", "'|O'", b"cos\nsystem\n(S'true'\ntR."),
        claiming("(1,)", "[('a', '<f4')]", b"x" * 4),
        claiming("(1,)", "'<U0'"),
        claiming("(" * 90 + ")" * 90),
        claiming("(1," + " " * 20_000 + ")", body=b"x" * 4),
        b"\x93NUMPY\x09\x09" + b"x" * 60,
        b"",
        b"not an array",
    ],
    ids=range(13),
)
def test_what_is_not_as_its_header_says_is_refused(tmp_path: Path, data: bytes) -> None:
    """Without allocating what it claims, and without running anything of it."""
    path = packed(tmp_path / "a.npz", values=data)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="values"):
            read_arrays(path, ["values"])
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_bomb_is_refused_by_what_it_would_become(tmp_path: Path) -> None:
    """A few kilobytes that decompress to a gigabyte, honest about it or not."""
    path = packed(tmp_path / "a.npz", values=array(np.zeros(10_000_000, np.uint8)))
    assert path.stat().st_size < 20_000
    with pytest.raises(ValueError, match="more than 1000000 bytes"):
        read_arrays(path, ["values"], max_bytes=1_000_000)

    honest = path.read_bytes()
    size = (10_000_128).to_bytes(4, "little")
    assert size in honest
    path.write_bytes(honest.replace(size, (1_000).to_bytes(4, "little")))
    with pytest.raises(ValueError, match=r"values|archive"):
        read_arrays(path, ["values"], max_bytes=1_000_000)


def test_many_arrays_together_stay_within_the_limit(tmp_path: Path) -> None:
    """Not each for itself."""
    one = array(np.zeros(400_000, np.uint8))
    path = packed(tmp_path / "a.npz", a=one, b=one, c=one)

    with pytest.raises(ValueError, match="c: more than"):
        read_arrays(path, "abc", max_bytes=1_000_000)


@pytest.mark.parametrize("content", [b"", b"PK", array(np.zeros(3)), b"PK\x05\x06" + b"\0" * 18])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    """A bare array too: it has no names."""
    path = tmp_path / "a.npz"
    path.write_bytes(content)

    with pytest.raises(ValueError, match=r"archive|values"):
        read_arrays(path, ["values"])
    with pytest.raises(ValueError, match="archive"):
        read_arrays(tmp_path / "missing.npz", ["values"])


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    """As it is called in the archive."""
    stream = io.BytesIO()
    np.savez(stream, other=np.zeros(3))
    (tmp_path / "a.npz").write_bytes(stream.getvalue())

    with pytest.raises(ValueError, match="values"):
        read_arrays(tmp_path / "a.npz", ["values"])
