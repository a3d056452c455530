"""Figures 5 to 7 on real photos, where they and a bundle trained on them are at hand."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from popexd.bundle import InputSpec, load
from popexd.lab.reproduction.figure_5 import figure_5
from popexd.lab.reproduction.figures_6_7 import figures_6_7
from popexd.lab.reproduction.photos import Photo, Photos, draw_photos, prepared

ARCHIVE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "pets.zip"
BUNDLE = os.environ.get("POPEXD_PHOTO_BUNDLE")

pytestmark = pytest.mark.skipif(not ARCHIVE.is_file(), reason=f"no photos at {ARCHIVE.parent.name}/{ARCHIVE.name}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos that no training sees."""
    place = tmp_path_factory.mktemp("pets")
    with zipfile.ZipFile(ARCHIVE) as archive:
        names = [name for name in archive.namelist() if "/val/" in f"/{name}" and name.lower().endswith(".jpg")]
        archive.extractall(place, names)
    return next(place.rglob("val"))


def test_blur_takes_detail_from_camera_size_photos(folder: Path) -> None:
    """On real files, whatever their size: the larger the filter, the smoother what the network gets."""
    paths = sorted(folder.rglob("*.jpg"))[::40]
    photos = Photos("photos", tuple(Photo(str(path), 0, "clear", path.read_bytes) for path in paths))
    form = InputSpec(224, 224, 3)

    for frames in zip(
        *(prepared(photos, form, each) for each in ("clear", "blur-5", "blur-15", "blur-65")), strict=True
    ):
        detail = [float(np.abs(np.diff(frame.astype(float), axis=1)).mean()) for frame in frames]
        assert all(frame.shape == (224, 224, 3) for frame in frames)
        assert detail == sorted(detail, reverse=True)
        assert detail[3] < 0.75 * detail[0]


@pytest.mark.skipif(
    BUNDLE is None, reason="no POPEXD_PHOTO_BUNDLE: a bundle trained on these photos (docs/training.md)"
)
def test_figures_5_to_7_on_a_trained_net(folder: Path) -> None:
    """Blur makes the branch wrong more often; a temperature above 1 lets no more leave; both halves have one."""
    bundle = load(BUNDLE or "")
    photos = draw_photos(str(folder), bundle, 200, seed=1)
    five = figure_5(bundle, photos)
    six, seven = figures_6_7(bundle, photos)

    right = five.settings["branch_accuracy"]
    assert right["clear"] > right["blur-15"] > right["blur-65"]
    before, after = (np.array(curve.y) for curve in six.panels[0].curves)
    if min(six.settings["temperatures"]) > 1:
        assert (after <= before).all()
        assert six.facts[0].same
    assert len(seven.panels) == 2
