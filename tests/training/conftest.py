"""What several tests here train on."""

from __future__ import annotations

import pytest

from popexd.training import data
from popexd.training.sources import GENERATED


@pytest.fixture(scope="session")
def frames(tmp_path_factory: pytest.TempPathFactory) -> data.DataSet:
    """Prepare a tiny generated data set once."""
    return data.prepare(tmp_path_factory.mktemp("data") / "frames", GENERATED, 160, 3, 64, processes=1)
