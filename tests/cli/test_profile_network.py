"""`popexd profile --model` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from popexd.profile import LayerGraph

from .conftest import Run


@pytest.mark.train
def test_the_command_writes_a_profile(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which `plan` takes as it is."""
    pytest.importorskip("torchvision")
    path = tmp_path / "squeezenet.json"
    options = ("--model", "squeezenet1_1", "--seconds", 0.3, "--threads", 1)
    assert run("profile", *options, "--out", path) == 0
    text = capsys.readouterr().out
    assert "0.3492 G multiply-adds, 1.235 M parameters" in text
    assert "off a run of the whole" in text
    assert len(LayerGraph.load(path).layers) == 38
    assert run("plan", path, "--uplink-mbps", "wifi", "--gamma", 10, "--json") == 0
    assert json.loads(capsys.readouterr().out)["solver"] == "joint"


def test_a_bundle_is_not_predicted(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """It is there to be measured."""
    assert run("profile", "--predicted") == 2
    assert "--predicted: a bundle is measured" in capsys.readouterr().err


@pytest.mark.train
def test_an_unknown_model_is_one_line(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, the nearest name."""
    pytest.importorskip("torchvision")
    assert run("profile", "--model", "vgg61") == 2
    said = capsys.readouterr().err
    assert said.startswith("popexd: --model: 'vgg61', did you mean 'vgg1")
    assert said.count("\n") == 1
