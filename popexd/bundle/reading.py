"""Reading a bundle never executes anything of it and never unpickles.

ONNX Runtime first sees a file in `popexd.runtime`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from popexd.arrays import read_arrays
from popexd.bundle.values import (
    FINAL,
    INPUT,
    Bundle,
    ExitSpec,
    ExitVariant,
    InputSpec,
    SegmentSpec,
    ValidationTable,
)
from popexd.criteria import CRITERIA, Criterion
from popexd.errors import BundleError
from popexd.protocol.nesting import MAX_DEPTH, nested_deeper
from popexd.quality import QualityEstimator

SCHEMA = "popexd/bundle/1"
DEFAULT_FOLDER = Path(__file__).parent.parent / "bundles" / "default"

_MAX_JSON_BYTES = 16_000_000
_LARGEST = 1e300
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""Of a model, a segment, an exit: it becomes a file's name too."""

_DTYPES = ("float32", "float16", "uint8", "int64")


def load(source: str | Path = "default") -> Bundle:
    """Read and verify a bundle folder, or the one that ships with the package under the name "default".

    Raises BundleError with one line: which file, which key, what was expected.
    """
    folder = DEFAULT_FOLDER if source == "default" else Path(source)
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such folder, expected a bundle folder or 'default'")
    facts = _read_json(folder / "bundle.json")
    bundle = described(folder, facts)
    expected = fingerprint(facts, ((name, folder / name) for name in listed_files(facts)))
    if bundle.fingerprint != expected:
        raise BundleError(
            f"{folder / 'bundle.json'}: fingerprint: does not match the files' content, expected {expected[:16]}…: "
            "the bundle was altered or is incomplete"
        )
    return bundle


def described(folder: Path, facts: Mapping[str, Any]) -> Bundle:
    """Check what bundle.json says, fingerprint apart, and that its files are there. Raises BundleError."""
    return _Reader(folder, facts).bundle()


def fingerprint(facts: Mapping[str, Any], files: Iterable[tuple[str, Path]]) -> str:
    """SHA-256 over the canonical facts (less their own fingerprint) and, by name, the digest of every listed file."""
    canonical = json.dumps(
        {k: v for k, v in facts.items() if k != "fingerprint"}, sort_keys=True, separators=(",", ":")
    )
    total = hashlib.sha256()
    total.update(f"bundle.json\0{hashlib.sha256(canonical.encode()).hexdigest()}\n".encode())
    for name, path in sorted(files):
        try:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise BundleError(f"{path}: cannot be read: {error.strerror or error}") from error
        total.update(f"{name}\0{digest}\n".encode())
    return total.hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        size_bytes = path.stat().st_size
        if size_bytes > _MAX_JSON_BYTES:
            raise BundleError(f"{path}: {size_bytes} bytes, expected at most {_MAX_JSON_BYTES}")
        text = path.read_bytes()
        if nested_deeper(text):
            raise BundleError(f"{path}: nested more than {MAX_DEPTH} deep, expected the bundle's description")
        facts = json.loads(text)
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read: {error.strerror or error}, expected the bundle's description"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(facts, dict):
        raise BundleError(f"{path}: expected a JSON object, found {type(facts).__name__}")
    return facts


def listed_files(facts: Mapping[str, Any]) -> list[str]:
    """Name every file that a checked bundle.json lists."""
    entries = [*facts["segments"], *facts["exits"]]
    experts = [expert for entry in facts["exits"] for expert in entry.get("by_quality", {}).values()]
    return [*(entry["file"] for entry in (*entries, *experts) if "file" in entry), facts["validation"]["file"]]


def inside(folder: Path, name: str, where: str) -> Path:
    """Resolve a listed file name; anything that leaves the folder, by name or by link, is refused."""
    path = folder / name
    usable = 0 < len(name) <= 255 and name.isprintable() and "\\" not in name and not Path(name).is_absolute()
    if not usable or not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(
            f"{folder / 'bundle.json'}: {where}: {name[:80]!r} leaves the bundle, expected a file inside its folder"
        )
    return path


class _Reader:
    """Turns bundle.json into a Bundle and checks every value on the way."""

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.folder = folder
        self.facts = facts

    def bundle(self) -> Bundle:
        if self.facts.get("schema") != SCHEMA:
            raise self.wrong("schema", f"expected {SCHEMA!r}", self.facts.get("schema"))
        classes = self.list_of(self.facts, "classes", str)
        if len(set(classes)) != len(classes) or not 2 <= len(classes) <= 256:
            raise self.wrong("classes", "expected 2 to 256 different names", classes)
        segments = self.segments(len(classes))
        bundle = Bundle(
            name=self.name(self.facts, "name"),
            folder=self.folder,
            fingerprint=self.value(self.facts, "fingerprint", str),
            classes=tuple(classes),
            input=self.input(),
            segments=segments,
            exits=self.exits({segment.name for segment in segments}, len(classes)),
            codecs=self.codecs({INPUT, *(segment.name for segment in segments)}),
            facts=self.facts,
            final_temperature=self.temperature(self.optional(self.facts, "final"), "final.", 1.0),
            quality=self.quality(),
            quality_shares=self.quality_shares(),
        )
        self.file(self.value(self.facts, "validation", dict), "validation.file")
        return bundle

    def input(self) -> InputSpec:
        entry = self.value(self.facts, "input", dict)
        for key, expected in (("name", INPUT), ("dtype", "uint8"), ("layout", "NHWC"), ("channels", 3)):
            if entry.get(key) != expected:
                raise self.wrong(f"input.{key}", f"expected {expected!r}", entry.get(key))
        sides = [self.value(entry, key, int, "input.") for key in ("height", "width")]
        if not all(1 <= side <= 4096 for side in sides):
            raise self.wrong("input", "expected height and width between 1 and 4096", sides)
        return InputSpec(sides[0], sides[1], 3)

    def segments(self, classes: int) -> tuple[SegmentSpec, ...]:
        found: dict[str, SegmentSpec] = {}
        for index, entry in enumerate(self.list_of(self.facts, "segments", dict)):
            where = f"segments[{index}]."
            name = self.name(entry, "name", where)
            after = tuple(self.list_of(entry, "after", str, where))
            if name in found or name in (INPUT, FINAL):
                raise self.wrong(f"{where}name", "expected a name that is not taken", name)
            if not after or not {*after} <= {INPUT, *found}:
                raise self.wrong(f"{where}after", "expected 'input' or names of segments listed before", list(after))
            output = self.value(entry, "output", dict, where)
            shape = tuple(self.list_of(output, "shape", int, f"{where}output."))
            if not shape or not all(1 <= side <= 1 << 20 for side in shape) or math.prod(shape) > 1 << 28:
                raise self.wrong(f"{where}output.shape", "expected positive sides, at most 2^28 elements", list(shape))
            dtype = self.value(output, "dtype", str, f"{where}output.")
            if dtype not in _DTYPES:
                raise self.wrong(f"{where}output.dtype", f"expected one of {', '.join(_DTYPES)}", dtype)
            found[name] = SegmentSpec(name, self.file(entry, f"{where}file"), after, shape, dtype)
        if not found:
            raise self.wrong("segments", "expected at least one", [])
        last = list(found.values())[-1]
        if last.shape != (1, classes):
            raise self.wrong("segments", f"expected the last one to give logits [1, {classes}]", list(last.shape))
        return tuple(found.values())

    def quality(self) -> QualityEstimator | None:
        if "quality" not in self.facts:
            return None
        try:
            return QualityEstimator.from_json(self.value(self.facts, "quality", dict))
        except ValueError as error:
            raise BundleError(f"{self.folder / 'bundle.json'}: quality: {error}") from error

    def quality_shares(self) -> dict[str, float]:
        shares = self.optional(self.optional(self.facts, "quality"), "shares", "quality.")
        found = {name: self.number(shares, name, "quality.shares.") for name in shares}
        if not all(0 <= share <= 1 for share in found.values()) or (found and sum(found.values()) <= 0):
            raise self.wrong("quality.shares", "expected shares between 0 and 1", shares)
        return found

    def exits(self, segments: set[str], classes: int) -> tuple[ExitSpec, ...]:
        found: dict[str, ExitSpec] = {}
        for index, entry in enumerate(self.list_of(self.facts, "exits", dict)):
            where = f"exits[{index}]."
            name = self.name(entry, "name", where)
            if name in found or name in segments or name in (INPUT, FINAL):
                raise self.wrong(f"{where}name", "expected a name that is not taken", name)
            after = self.value(entry, "after", str, where)
            if after not in segments:
                raise self.wrong(f"{where}after", "expected the name of a segment", after)
            criterion = self.value(entry, "criterion", str, where)
            if criterion not in CRITERIA:
                raise self.wrong(f"{where}criterion", f"expected one of {', '.join(CRITERIA)}", criterion)
            found[name] = ExitSpec(
                name,
                after,
                self.file(entry, f"{where}file"),
                self.temperature(entry, where),
                self.number(entry, "threshold", where),
                Criterion(criterion, classes),
                self.variants(self.optional(entry, "by_quality", where), f"{where}by_quality."),
            )
        return tuple(found.values())

    def variants(self, entry: Mapping[str, Any], where: str) -> dict[str, ExitVariant]:
        if len(entry) > 64:
            raise self.wrong(where[:-1], "expected at most 64 quality classes", len(entry))
        found: dict[str, ExitVariant] = {}
        for quality in entry:
            own, inside_ = self.value(entry, quality, dict, where), f"{where}{quality}."
            found[quality] = ExitVariant(
                self.number(own, "threshold", inside_) if "threshold" in own else None,
                self.temperature(own, inside_) if "temperature" in own else None,
                self.file(own, f"{inside_}file") if "file" in own else None,
            )
        return found

    def temperature(self, entry: Mapping[str, Any], where: str, default: float | None = None) -> float:
        if default is not None and "temperature" not in entry:
            return default
        temperature = self.number(entry, "temperature", where)
        if temperature <= 0:
            raise self.wrong(f"{where}temperature", "expected more than 0", temperature)
        return temperature

    def optional(self, entry: Mapping[str, Any], key: str, where: str = "") -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.value(entry, key, dict, where) if key in entry else {}
        return found

    def codecs(self, cuts: set[str]) -> dict[str, dict[str, dict[str, float]]]:
        found: dict[str, dict[str, dict[str, float]]] = {}
        for cut, by_codec in self.value(self.facts, "codecs", dict).items():
            if cut not in cuts or not isinstance(by_codec, dict):
                raise self.wrong(
                    f"codecs.{cut}", "expected 'input' or a segment's name, with a table of codecs", by_codec
                )
            for codec in by_codec:
                entry, where = self.value(by_codec, codec, dict, f"codecs.{cut}."), f"codecs.{cut}.{codec}."
                numbers = {key: self.number(entry, key, where) for key in ("bytes", "accuracy", "agreement")}
                if numbers["bytes"] <= 0 or not all(0 <= numbers[key] <= 1 for key in ("accuracy", "agreement")):
                    raise self.wrong(
                        where[:-1], "expected bytes above 0, accuracy and agreement between 0 and 1", numbers
                    )
                found.setdefault(cut, {})[codec] = numbers
        return found

    def file(self, entry: Mapping[str, Any], where: str) -> Path:
        path = inside(self.folder, self.value(entry, "file", str, where.removesuffix("file")), where)
        if not path.is_file() or path.stat().st_size == 0:
            raise BundleError(f"{path}: missing or empty, expected the file that {where} of bundle.json lists")
        return path

    def name(self, entry: Mapping[str, Any], key: str, where: str = "") -> str:
        name: str = self.value(entry, key, str, where)
        if not NAME.fullmatch(name):
            raise self.wrong(f"{where}{key}", "expected 1 to 64 letters, digits, '_', '-', '.'", name)
        return name

    def number(self, entry: Mapping[str, Any], key: str, where: str) -> float:
        number = entry.get(key)
        # Compared, not converted: JSON knows whole numbers that no float can hold.
        if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) < _LARGEST:
            raise self.wrong(f"{where}{key}", "expected a finite number", number)
        return float(number)

    def list_of(self, entry: Mapping[str, Any], key: str, kind: type, where: str = "") -> list[Any]:
        values = self.value(entry, key, list, where)
        if not all(type(value) is kind for value in values):
            raise self.wrong(f"{where}{key}", f"expected only {kind.__name__} inside", values)
        return list(values)

    def value(self, entry: Mapping[str, Any], key: str, kind: type, where: str = "") -> Any:
        value = entry.get(key)
        if type(value) is not kind:
            raise self.wrong(f"{where}{key}", f"expected {kind.__name__}", value)
        return value

    def wrong(self, key: str, expected: str, found: object) -> BundleError:
        shown = "nothing" if found is None else json.dumps(found, default=str)
        return BundleError(f"{self.folder / 'bundle.json'}: {key}: {expected}, found {shown[:80]}")


def read_validation(bundle: Bundle) -> ValidationTable:
    """Read the per-sample table of a bundle. Raises BundleError."""
    path = inside(bundle.folder, bundle.facts["validation"]["file"], "validation.file")
    keys = ("exits", "confidence", "correct", "predicted", "label", "quality")
    try:
        arrays: dict[str, Any] = dict(read_arrays(path, keys, optional=("entropy", "seen", "photo")))
    except ValueError as error:
        raise BundleError(f"{path}: {error}, expected arrays {', '.join(keys)} without pickles") from error
    exits = tuple(str(name) for name in arrays.pop("exits"))
    expected_exits = (*(exit_.name for exit_ in bundle.exits), FINAL)
    if exits != expected_exits:
        raise BundleError(f"{path}: exits: expected {', '.join(expected_exits)}, found {', '.join(exits)}")
    samples = arrays["label"].size
    kinds = {"confidence": "f", "correct": "b", "predicted": "u", "label": "u", "quality": "U"}
    for key, kind in {**kinds, "entropy": "f", "seen": "U", "photo": "u"}.items():
        shape = (samples,) if key in ("label", "quality", "seen", "photo") else (len(exits), samples)
        if key in arrays and (arrays[key].shape != shape or arrays[key].dtype.kind != kind):
            raise BundleError(
                f"{path}: {key}: expected {shape} of kind {kind!r}, found {arrays[key].shape} {arrays[key].dtype}"
            )
    if samples == 0 or not all(np.isfinite(arrays[key]).all() for key in ("confidence", "entropy") if key in arrays):
        raise BundleError(f"{path}: confidence: expected finite numbers for at least one sample")
    if "entropy" not in arrays and any(spec.criterion.name != "confidence" for spec in bundle.exits):
        raise BundleError(f"{path}: entropy: missing, expected it because a branch goes by entropy")
    return ValidationTable(exits, **arrays)
