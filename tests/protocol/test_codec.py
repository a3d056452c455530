"""Tensor codecs: what comes back, how far off it may be, and that nothing from outside gets further than a refusal."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from popexd.errors import MessageRejected
from popexd.protocol.codec import (
    CODECS,
    Encoded,
    decode,
    encode,
    image,
    is_feature_codec,
    is_image_codec,
)

QUANTISED = [name for name in CODECS if name.startswith("q")]
LEVELS = {"q8": 255, "q4": 15, "q2": 3}


def feature_map(shape: tuple[int, ...] = (1, 48, 27, 27), seed: int = 0) -> np.ndarray:
    """Make something like the output of a convolution and a ReLU: more than half of it zero."""
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32) - 0.3
    return np.maximum(values, 0)


shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7)
finite_tensors = hnp.arrays(np.float32, shapes, elements=st.floats(-1e6, 1e6, width=32))
any_floats = st.sampled_from([np.float16, np.float32]).flatmap(
    lambda dtype: hnp.arrays(
        dtype, shapes, elements=st.floats(width=16 if dtype is np.float16 else 32, allow_nan=True, allow_infinity=True)
    )
)
pixels = hnp.arrays(np.uint8, shapes)


@given(any_floats, st.sampled_from(["f32", "f32+zstd"]))
def test_f32_is_exact(array: np.ndarray, codec: str) -> None:
    """Every value of a float tensor comes back bit for bit, NaN and infinities included."""
    restored = decode(encode(array, codec))

    assert array.dtype == restored.dtype
    np.testing.assert_array_equal(array, restored)


@given(pixels, st.sampled_from(["f32", "f16", "f32+zstd"]))
def test_pixels_survive_as_floats(array: np.ndarray, codec: str) -> None:
    """A uint8 tensor travels as floats and comes back as the same uint8 tensor."""
    encoded = encode(array, codec)

    assert encoded.dtype == "uint8"
    np.testing.assert_array_equal(array, decode(encoded))


def test_raw_pixels_cost_four_bytes_each() -> None:
    """The papers' raw tensor is float32, whatever the type of the pixels."""
    assert encode(np.zeros((1, 224, 224, 3), np.uint8), "f32").size_bytes == 4 * 224 * 224 * 3


@given(finite_tensors, st.sampled_from(QUANTISED))
def test_affine_codes_are_off_by_half_a_step_at_most(array: np.ndarray, codec: str) -> None:
    """No value moves by more than half of its scale, float32's own rounding aside."""
    encoded = encode(array, codec)
    restored = decode(encoded)

    assert codec == encoded.codec
    assert (array.shape, array.dtype) == (restored.shape, restored.dtype)
    if array.size:
        per_channel = encoded.scale.size > 1
        scale = encoded.scale.reshape((1, -1) + (1,) * (array.ndim - 2)) if per_channel else encoded.scale[0]
        rounding = 1e-5 * scale + 4 * np.spacing(np.abs(array).max())
        assert (np.abs(restored.astype(np.float64) - array) <= scale / 2 + rounding).all()


@given(finite_tensors, st.sampled_from(CODECS))
def test_every_codec_keeps_shape_and_type(array: np.ndarray, codec: str) -> None:
    """Decoding restores shape and type, of empty tensors and scalars too."""
    restored = decode(encode(array, codec))

    assert (array.shape, array.dtype) == (restored.shape, restored.dtype)


@given(any_floats, st.sampled_from(CODECS))
def test_what_a_codec_cannot_express_falls_back_to_f32(array: np.ndarray, codec: str) -> None:
    """NaN, infinities and values out of range are sent exactly instead, and the encoded tensor says so."""
    encoded = encode(array, codec)

    if not np.isfinite(array).all():
        assert encoded.codec in ("f32", "f32+zstd")
        np.testing.assert_array_equal(array, decode(encoded))
    else:
        assert np.isfinite(decode(encoded)).all()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("value", [0.0, 0.1, -3.25, 65504.0, 1e-42, 3e38])
def test_constant_tensors_are_exact(codec: str, value: float) -> None:
    """A tensor without any spread has no quantisation error, whatever its level."""
    array = np.full((1, 3, 2, 2), value, np.float32)
    tolerance = 2**-11 * abs(value) if codec.startswith("f16") and value != 3e38 else 0

    np.testing.assert_allclose(decode(encode(array, codec)), array, rtol=0, atol=max(tolerance, 6e-8 * (tolerance > 0)))


def test_zeros_stay_zero() -> None:
    """After a ReLU the many zeros are exactly zero again, for every codec."""
    array = feature_map()

    for codec in CODECS:
        assert (decode(encode(array, codec))[array == 0] == 0).all(), codec


def test_own_scale_per_channel_helps_unequal_channels() -> None:
    """With one loud channel the quiet ones keep their detail under a per-channel codec."""
    array = feature_map((1, 4, 8, 8))
    array[0, 0] *= 1000
    quiet = (0, slice(1, None))

    errors = {codec: np.abs(decode(encode(array, codec)) - array)[quiet].max() for codec in ("q8", "q8c")}

    assert errors["q8c"] < errors["q8"] / 100


def test_smaller_codecs_are_smaller() -> None:
    """On a feature map the sizes fall in the order of the table, and compression helps each."""
    array = feature_map()
    size = {codec: encode(array, codec).size_bytes for codec in CODECS}

    assert size["f32"] == 4 * array.size
    assert size["f16"] == 2 * array.size
    assert size["f32"] > size["f16"] > size["q8"] > size["q4"] > size["q2"]
    assert all(size[f"{codec}+zstd"] < size[codec] for codec in CODECS if "+" not in codec)


def test_float64_and_strided_tensors_are_accepted() -> None:
    """What is not contiguous float32 is converted first and restored in its own type."""
    array = feature_map((2, 6, 8, 4)).astype(np.float64).transpose(0, 2, 3, 1)[:, ::2]

    restored = decode(encode(array, "q8c"))

    assert np.float64 == restored.dtype
    np.testing.assert_allclose(restored, array, atol=0.02)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros(3, np.int64), "dtype"),
        (np.zeros(3, complex), "dtype"),
        (np.array(["text"]), "dtype"),
        (np.array([object()]), "dtype"),
        (np.array([1e300]), "values"),
    ],
)
def test_tensors_that_cannot_be_sent_are_refused(array: np.ndarray, reason: str) -> None:
    """Types and values that float32 cannot hold are refused with a reason."""
    with pytest.raises(MessageRejected) as refused:
        encode(array, "f32")

    assert reason == refused.value.reason


@pytest.mark.parametrize(
    "name", ["", "f8", "f32c", "f16c", "q3", "q8cc", "q8+lz4", "q8+zstd+zstd", "Q8", "camera", "q8\n"]
)
def test_unknown_codecs_are_refused(name: str) -> None:
    """A codec that is not of the table can neither encode nor decode."""
    assert not is_feature_codec(name)
    with pytest.raises(MessageRejected, match="codec"):
        encode(np.zeros(2, np.float32), name)
    with pytest.raises(MessageRejected, match="codec"):
        decode(Encoded(b"", name, "float32", (0,)))


def test_image_codecs_are_told_from_tensor_codecs() -> None:
    """The table's names are tensor codecs; camera, JPEG and WebP with a quality are image codecs."""
    assert all(is_feature_codec(name) and not is_image_codec(name) for name in CODECS)
    assert all(is_image_codec(name) for name in ("camera", "jpeg-1", "jpeg-75", "jpeg-100", "webp-50"))
    assert not any(
        is_image_codec(name) for name in ("jpeg", "jpeg-", "jpeg-0", "jpeg-101", "png-9", "jpeg-75+zstd", "")
    )


def test_an_image_is_carried_as_it_is() -> None:
    """An image codec's tensor is the file; it is not for `decode`."""
    carried = image(b"\xff\xd8file", "camera")

    assert (carried.data, carried.dtype, carried.shape, carried.size_bytes) == (b"\xff\xd8file", "uint8", (6,), 6)
    with pytest.raises(MessageRejected, match="codec"):
        decode(carried)
    with pytest.raises(MessageRejected, match="codec"):
        image(b"", "q8")


one = np.ones(1, np.float32)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"shape": (1, 48, 27, 28)}, "length"),
        ({"shape": (1 << 40, 1 << 40)}, "too-large"),
        ({"shape": (0, 1 << 62)}, "too-large"),
        ({"shape": (-1, -1)}, "shape"),
        ({"shape": (1,) * 9}, "shape"),
        ({"dtype": "object"}, "dtype"),
        ({"data": b""}, "length"),
        ({"scale": np.ones(2, np.float32)}, "scale"),
        ({"scale": one * 0}, "scale"),
        ({"scale": -one}, "scale"),
        ({"scale": one * np.nan}, "scale"),
        ({"scale": one * np.inf}, "scale"),
        ({"scale": one * 3e38}, "scale"),
        ({"zero": one * np.nan}, "scale"),
        ({"codec": "q4"}, "length"),
        ({"codec": "f32"}, "scale"),
        ({"codec": "q8c"}, "scale"),
        ({"codec": "q8+zstd"}, "zstd"),
    ],
)
def test_inconsistent_tensors_are_refused(changed: dict[str, Any], reason: str) -> None:
    """Whatever does not fit together is refused with its reason before anything is allocated."""
    good = encode(feature_map(), "q8")

    with pytest.raises(MessageRejected) as refused:
        decode(replace(good, **changed))

    assert reason == refused.value.reason


def test_a_compressed_bomb_is_refused() -> None:
    """A frame that would grow beyond the tensor's own size is never decompressed."""
    bomb = zstandard.ZstdCompressor(level=19).compress(b"\0" * 50_000_000)
    silent = zstandard.ZstdCompressor(level=3, write_content_size=False).compress(b"\0" * 50_000_000)
    scale = np.ones(1, np.float32)

    for data in (bomb, silent):
        with pytest.raises(MessageRejected, match="zstd"):
            decode(Encoded(data, "q8+zstd", "float32", (100,), scale, scale))


def test_a_compressed_tensor_carries_nothing_behind_it() -> None:
    """Bytes after the compressed frame are refused."""
    good = encode(feature_map(), "f32+zstd")

    with pytest.raises(MessageRejected, match="zstd"):
        decode(replace(good, data=good.data + b"more"))


def test_floats_outside_a_byte_are_no_pixels() -> None:
    """A uint8 tensor whose floats leave 0…255, or are not numbers, is refused instead of wrapped."""
    for value in (-7.0, 256.0, np.nan, np.inf):
        data = np.array([value], "<f4").tobytes()
        with pytest.raises(MessageRejected, match="values"):
            decode(Encoded(data, "f32", "uint8", (1,)))


parameters = hnp.arrays(np.float32, st.integers(0, 4), elements=st.floats(width=32))


@given(
    st.binary(max_size=200),
    st.sampled_from([*CODECS, "camera", "x"]),
    st.sampled_from(["float32", "float16", "float64", "uint8", "int8", ""]),
    st.lists(st.one_of(st.integers(0, 5), st.integers(-2, 2**70)), max_size=10).map(tuple),
    parameters,
    parameters,
    st.booleans(),
)
def test_garbage_is_only_ever_refused(
    data: bytes,
    codec: str,
    dtype: str,
    shape: tuple[int, ...],
    scale: np.ndarray,
    zero: np.ndarray,
    compressed: bool,
) -> None:
    """Arbitrary bytes and parameters decode to a tensor of the announced form or raise MessageRejected."""
    garbage = zstandard.compress(data) if compressed else data
    try:
        restored = decode(Encoded(garbage, codec, dtype, shape, scale, zero))
    except MessageRejected:
        return

    assert (shape, dtype) == (restored.shape, restored.dtype.name)


def test_threads_share_the_codecs() -> None:
    """Compressing in several threads at once gives each its own tensor back."""
    arrays = [feature_map(seed=seed) for seed in range(4)]
    wrong: list[int] = []

    def work(seed: int) -> None:
        for _ in range(20):
            restored = decode(encode(arrays[seed], "f32+zstd"))
            wrong.extend([seed] * (not np.array_equal(restored, arrays[seed])))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(len(arrays))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=240)

    assert not wrong
    assert not any(thread.is_alive() for thread in threads)
