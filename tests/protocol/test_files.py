"""The published forms of files agree with what is read and written."""

from __future__ import annotations

import json

from popexd import bundle
from popexd.profile import LayerGraph
from popexd.protocol.files import BundleFile, ProfileFile

PROFILE = {
    "schema": "popexd/profile/1",
    "model": "toy",
    "input_bytes": 1000,
    "layers": [
        {"name": "v1", "after": ["input"], "seconds": {"device": 0.1, "cloud": 0.01}, "output_bytes": 40},
        {"name": "v2", "after": ["v1"], "seconds": {"device": 0.1, "cloud": 0.01}, "output_bytes": 4},
    ],
    "exits": [{"name": "b1", "after": "v1", "seconds": {"device": 0.01}, "probability": 0.5}],
    "codecs": {"v1": {"q8": {"bytes": 10, "encode_seconds": 0.001, "decode_seconds": 0.001}}},
    "joint": {
        "exits": ["b1", "final"],
        "confidence": {"b1": [0.5], "final": [1]},
        "correct": {"b1": [True], "final": [True]},
    },
}


def test_what_the_reader_takes_and_writes_has_the_published_form() -> None:
    """A profile that is read, and what it is written as, both validate against the schema."""
    ProfileFile.model_validate(PROFILE)
    written = LayerGraph.from_json(PROFILE, "here").to_json()

    assert ProfileFile.model_validate(json.loads(json.dumps(written))).model == "toy"


def test_the_default_bundle_has_the_published_form() -> None:
    """The bundle that ships validates against the schema."""
    facts = json.loads((bundle.load().folder / "bundle.json").read_text())

    assert BundleFile.model_validate(facts).fingerprint == bundle.load().fingerprint
