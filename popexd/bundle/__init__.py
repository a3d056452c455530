"""The model bundle on disk: a folder of `bundle.json`, an ONNX file per segment and branch, and a validation table."""

from popexd.bundle.reading import DEFAULT_FOLDER, NAME, SCHEMA, fingerprint, load
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
from popexd.bundle.writing import check_place, write
from popexd.criteria import CRITERIA

__all__ = [
    "CRITERIA",
    "DEFAULT_FOLDER",
    "FINAL",
    "INPUT",
    "NAME",
    "SCHEMA",
    "Bundle",
    "ExitSpec",
    "ExitVariant",
    "InputSpec",
    "SegmentSpec",
    "ValidationTable",
    "check_place",
    "fingerprint",
    "load",
    "write",
]
