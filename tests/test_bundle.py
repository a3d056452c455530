"""The bundle on disk: whole, unaltered, inside its folder, and never unpickled."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from popexd import bundle
from popexd.errors import BundleError

SAMPLES = 6


def validation_bytes(**changed: Any) -> bytes:
    """Make a validation table, some arrays replaced."""
    arrays: dict[str, Any] = {
        "exits": np.array(["b1", "final"]),
        "confidence": np.linspace(0, 1, 2 * SAMPLES, dtype=np.float32).reshape(2, SAMPLES),
        "correct": np.ones((2, SAMPLES), dtype=bool),
        "predicted": np.zeros((2, SAMPLES), dtype=np.uint8),
        "label": np.zeros(SAMPLES, dtype=np.uint8),
        "quality": np.array(["clear"] * SAMPLES),
    } | changed
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


SEGMENTS = [
    ("s1", "input", [1, 4]),
    ("s2", "s1", [1, 2]),
]


def facts(**changed: Any) -> dict[str, Any]:
    """Make a valid bundle.json without fingerprint, some keys replaced."""
    return {
        "schema": "popexd/bundle/1",
        "name": "tiny",
        "classes": ["nut", "bolt"],
        "input": {"name": "input", "height": 8, "width": 8, "channels": 3, "dtype": "uint8", "layout": "NHWC"},
        "segments": [
            {
                "name": name,
                "file": f"segments/{name}.onnx",
                "after": [after],
                "output": {"shape": shape, "dtype": "float32"},
            }
            for name, after, shape in SEGMENTS
        ],
        "exits": [
            {
                "name": "b1",
                "after": "s1",
                "file": "segments/b1.onnx",
                "temperature": 1.0,
                "threshold": 0.9,
                "criterion": "confidence",
            }
        ],
        "codecs": {"s1": {"q8": {"bytes": 4, "accuracy": 0.9, "agreement": 1.0}}},
        "validation": {"file": "validation.npz", "samples": SAMPLES},
        "training": {"note": "none"},
    } | changed


def files(**changed: bytes) -> dict[str, bytes]:
    """Make the files it lists."""
    content = {f"segments/{name}.onnx": name.encode() for name in ("s1", "s2", "b1")}
    return content | {"validation.npz": validation_bytes()} | changed


def written(folder: Path) -> Path:
    """Write a valid bundle."""
    bundle.write(folder, facts(), files())
    return folder


def rewrite(folder: Path, **changed: Any) -> None:
    """Replace keys of a written bundle.json."""
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_a_written_bundle_loads_with_everything_in_it(tmp_path: Path) -> None:
    """What was written comes back typed, with the validation table."""
    found = bundle.load(written(tmp_path / "tiny"))
    assert [segment.name for segment in found.segments] == ["s1", "s2"]
    assert found.segments[1].after == ("s1",)
    assert found.segments[0].shape == (1, 4)
    assert found.thresholds == {"b1": 0.9}
    assert found.codecs["s1"]["q8"]["bytes"] == 4
    assert found.validation.samples == SAMPLES
    assert len(found.fingerprint) == 64


def test_the_same_content_has_the_same_fingerprint_wherever_it_lies(tmp_path: Path) -> None:
    """The fingerprint is of the content, not of the place."""
    one, two = bundle.load(written(tmp_path / "one")), bundle.load(written(tmp_path / "two"))
    assert one.fingerprint == two.fingerprint


def test_writing_over_an_older_bundle_replaces_it_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    """Replacement is by rename; no partial folder survives."""
    written(tmp_path / "tiny")
    bundle.write(tmp_path / "tiny", facts(name="newer"), files())
    assert bundle.load(tmp_path / "tiny").name == "newer"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_bundle_that_would_not_verify_is_not_written_and_the_older_one_stays(tmp_path: Path) -> None:
    """Verification happens before the rename."""
    written(tmp_path / "tiny")
    with pytest.raises(BundleError, match="threshold"):
        bundle.write(tmp_path / "tiny", facts(exits=[facts()["exits"][0] | {"threshold": float("nan")}]), files())
    assert bundle.load(tmp_path / "tiny").name == "tiny"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_folder_that_is_not_a_bundle_is_never_replaced(tmp_path: Path) -> None:
    """Somebody's files stay where they are."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(BundleError, match="not a bundle"):
        bundle.write(tmp_path / "photos", facts(), files())
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"


@pytest.mark.parametrize("name", ["segments/s1.onnx", "segments/b1.onnx", "validation.npz"])
def test_one_altered_byte_is_noticed(tmp_path: Path, name: str) -> None:
    """The fingerprint covers every listed file."""
    folder = written(tmp_path / "tiny")
    path = folder / name
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(BundleError, match="fingerprint"):
        bundle.load(folder)


def test_an_altered_description_is_noticed(tmp_path: Path) -> None:
    """The fingerprint covers bundle.json itself."""
    folder = written(tmp_path / "tiny")
    rewrite(folder, name="other")
    with pytest.raises(BundleError, match="fingerprint"):
        bundle.load(folder)


@pytest.mark.parametrize(
    "name", ["../outside.onnx", "/etc/hostname", "segments/../../outside.onnx", "", "a\0b", "a" * 5_000, "a\nb"]
)
def test_a_file_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    """Path escapes are refused even where the file exists."""
    folder = written(tmp_path / "tiny")
    (tmp_path / "outside.onnx").write_bytes(b"x")
    rewrite(folder, segments=[facts()["segments"][0] | {"file": name}, facts()["segments"][1]])
    with pytest.raises(BundleError, match="leaves the bundle"):
        bundle.load(folder)


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    """A symbolic link is followed before it is judged."""
    folder = written(tmp_path / "tiny")
    (tmp_path / "outside.onnx").write_bytes(b"s1")
    (folder / "segments" / "s1.onnx").unlink()
    (folder / "segments" / "s1.onnx").symlink_to(tmp_path / "outside.onnx")
    with pytest.raises(BundleError, match="leaves the bundle"):
        bundle.load(folder)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"schema": "popexd/bundle/2"}, "schema"),
        ({"name": "a b"}, "name"),
        ({"classes": ["one"]}, "classes"),
        ({"input": {"name": "input"}}, r"input\.dtype"),
        ({"segments": []}, "segments"),
        ({"segments": facts()["segments"][::-1]}, r"segments\[0\]\.after"),
        ({"segments": facts()["segments"][:1]}, "logits"),
        ({"exits": [facts()["exits"][0] | {"after": "s9"}]}, r"exits\[0\]\.after"),
        ({"exits": [facts()["exits"][0] | {"temperature": 0}]}, r"exits\[0\]\.temperature"),
        ({"exits": [facts()["exits"][0] | {"temperature": 10**400}]}, r"exits\[0\]\.temperature"),
        ({"exits": [facts()["exits"][0] | {"criterion": "luck"}]}, r"exits\[0\]\.criterion"),
        ({"codecs": {"s9": {}}}, r"codecs\.s9"),
        ({"codecs": {"s1": {"q8": {"bytes": 4, "accuracy": 2, "agreement": 1}}}}, r"codecs\.s1\.q8"),
        ({"validation": {}}, r"validation\.file"),
    ],
)
def test_a_wrong_description_is_named_by_key_in_one_line(tmp_path: Path, change: dict[str, Any], key: str) -> None:
    """Every complaint says which key of bundle.json is wrong."""
    folder = written(tmp_path / "tiny")
    rewrite(folder, **change)
    with pytest.raises(BundleError, match=key) as caught:
        bundle.load(folder)
    assert "bundle.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_description_that_is_not_a_json_object_is_one_line(tmp_path: Path, content: bytes) -> None:
    """Whatever the bytes, the complaint is a BundleError."""
    folder = written(tmp_path / "tiny")
    (folder / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        bundle.load(folder)


def test_a_missing_file_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    """Incomplete copies say what is missing."""
    with pytest.raises(BundleError, match="no such folder"):
        bundle.load(tmp_path / "nowhere")
    folder = written(tmp_path / "tiny")
    (folder / "segments" / "b1.onnx").unlink()
    with pytest.raises(BundleError, match=r"b1\.onnx: missing"):
        bundle.load(folder)


class Trap:
    """Fails the test when unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return pytest.fail, ("the validation table was unpickled",)


def test_a_pickled_validation_table_is_refused_and_not_executed(tmp_path: Path) -> None:
    """Object arrays, and a bare pickle, end in a BundleError."""
    stream = io.BytesIO()
    np.savez(stream, exits=np.array([Trap()], dtype=object))
    for content in (stream.getvalue(), pickle.dumps(Trap())):
        with pytest.raises(BundleError, match=r"validation\.npz"):
            bundle.write(tmp_path / "tiny", facts(), files(**{"validation.npz": content}))


@pytest.mark.parametrize(
    "content",
    [
        b"no archive",
        validation_bytes()[:200],
        validation_bytes(exits=np.array(["b9", "final"])),
        validation_bytes(confidence=np.zeros((2, SAMPLES + 1), dtype=np.float32)),
        validation_bytes(correct=np.zeros((2, SAMPLES), dtype=np.float32)),
        validation_bytes(confidence=np.full((2, SAMPLES), np.nan, dtype=np.float32)),
    ],
)
def test_a_validation_table_of_another_form_is_refused(tmp_path: Path, content: bytes) -> None:
    """Names, shapes and kinds are checked."""
    with pytest.raises(BundleError, match=r"validation\.npz"):
        bundle.write(tmp_path / "tiny", facts(), files(**{"validation.npz": content}))


def test_the_default_bundle_loads_and_weighs_at_most_ten_megabytes() -> None:
    """What ships with the package is verified and small."""
    found = bundle.load("default")
    assert sum(path.stat().st_size for path in found.folder.rglob("*") if path.is_file()) <= 10_000_000
    assert found.validation.samples >= 2_000
    assert [segment.name for segment in found.segments] == [
        "pool1",
        "pool2",
        "conv3",
        "conv4",
        "pool5",
        "fc6",
        "fc7",
        "fc8",
    ]
    assert [exit_.name for exit_ in found.exits] == ["b1", "b3"]


def test_a_description_nested_too_deeply_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """Nothing in it is deeper than a handful of levels."""
    folder = written(tmp_path / "tiny")
    (folder / "bundle.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    with pytest.raises(BundleError, match="nested more than 32 deep"):
        bundle.load(folder)
