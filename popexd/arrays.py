"""Arrays out of an `.npz` file from outside: bounded by what its headers claim before anything is allocated.

numpy's own reader allocates whatever an array's header asks for. Here an array is read when its header agrees with
the bytes that are there, and the bytes with the limit. Nothing is ever unpickled.
"""

from __future__ import annotations

import io
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

MAX_BYTES = 256_000_000
_MOST_MEMBERS = 64
_KINDS = "biufU"


def read_arrays(
    path: Path, names: Iterable[str], max_bytes: int = MAX_BYTES, *, optional: Iterable[str] = ()
) -> dict[str, npt.NDArray[np.generic]]:
    """Return the named arrays, `optional` ones if there; together they hold at most `max_bytes`, compressed or not.

    Raises:
        ValueError: no such file of numpy's, one is missing, too large, of another kind, or not what its header says.

    """
    found: dict[str, npt.NDArray[np.generic]] = {}
    left = max_bytes
    try:
        with zipfile.ZipFile(path) as archive:
            if len(archive.infolist()) > _MOST_MEMBERS:
                raise ValueError(f"{len(archive.infolist())} arrays, expected at most {_MOST_MEMBERS}")
            there = set(archive.namelist())
            for name in (*names, *(name for name in optional if f"{name}.npy" in there)):
                member = archive.getinfo(f"{name}.npy")
                if member.file_size > left:
                    raise ValueError(f"{name}: more than {max_bytes} bytes in all")
                left -= member.file_size
                with archive.open(member) as stream:
                    # Whatever its directory says, no more than that is decompressed.
                    found[name] = _array(name, stream.read(member.file_size))
    except KeyError as error:
        raise ValueError(f"{str(error.args[0])[:80]}") from error
    except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"no archive of arrays: {str(error)[:80]}") from error
    return found


def _array(name: str, data: bytes) -> npt.NDArray[np.generic]:
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream, max_header_size=10_000)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise ValueError(f"{name}: no array: {' '.join(str(error).split())[:80] or 'its header'}") from error
    if dtype.kind not in _KINDS or dtype.hasobject or any(side < 0 for side in shape):
        raise ValueError(f"{name}: of type {dtype}, expected numbers or text")
    if math.prod(shape) * dtype.itemsize != len(data) - stream.tell() or not dtype.itemsize:
        raise ValueError(f"{name}: {len(data) - stream.tell()} bytes, which is not {shape} of {dtype}")
    flat = np.frombuffer(data, dtype, offset=stream.tell())
    return flat.reshape(shape, order="F" if fortran else "C")
