"""Full disks, and Ctrl-C in the middle: one line or none, what is there is whole, and nothing else is left."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from popexd.cli.main import INTERRUPTED

pytest.importorskip("torch", reason="needs the extra `train`")
pytest.importorskip("onnx", reason="needs the extra `train`")
pytest.importorskip("matplotlib", reason="needs the extra `plot`")
pytestmark = pytest.mark.train

from popexd.training import checkpoint  # noqa: E402 - after the skip
from tests.cli.conftest import until  # noqa: E402
from tests.training.running import status  # noqa: E402

SMALL = ["--backbone", "b-alexnet-tiny", "--batch", "16", "--epochs", "1", "--threads", "1", "--augmentation", "none"]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: writing more fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw a folder of two classes, 20 photos of each."""
    root, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(2)
    for name, tone in (("dark", 60), ("light", 190)):
        (root / name).mkdir()
        for index in range(20):
            pixels = np.clip(random.normal(tone, 30, (60, 80, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A run on these photos."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert status("train", "--out", out, "--data", photos, *SMALL) == 0
    return out


def test_a_full_disk_ends_a_training_with_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], photos: Path
) -> None:
    """While frames are prepared nothing stays; later the frames do, and no part of a checkpoint."""
    words = ["train", "--out", tmp_path / "new" / "run", "--data", photos, *SMALL]
    with files_of_at_most(100_000):
        assert status(*words) == 2
    assert capfd.readouterr().err == f"popexd: {tmp_path}/new/run/data: cannot be written: File too large\n"
    assert list(tmp_path.iterdir()) == []
    cache = ["--cache", tmp_path / "frames"]
    assert status(*words, *cache) == 0
    last = (tmp_path / "new" / "run" / "last.pt").read_bytes()
    capfd.readouterr()
    with files_of_at_most(100_000):
        assert status("train", "--out", tmp_path / "other", "--data", photos, *SMALL, *cache) == 2
    assert capfd.readouterr().err == f"popexd: {tmp_path}/other/best.pt: cannot be written: File too large\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames", "new"]
    with files_of_at_most(100_000):
        assert status(*words, *cache, "--resume", "--epochs", 2) == 2
    assert capfd.readouterr().err.count("\n") == 1
    assert sorted(path.name for path in (tmp_path / "new" / "run").iterdir()) == ["best.pt", "last.pt"]
    assert (tmp_path / "new" / "run" / "last.pt").read_bytes() == last
    assert checkpoint.load(tmp_path / "new" / "run" / "best.pt")["epoch"] == 0


@pytest.mark.parametrize("command", ["export", "calibrate", "evaluate", "reproduce"])
def test_a_full_disk_leaves_nothing_of_what_could_not_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], run: Path, command: str
) -> None:
    """No bundle, no picture, no folder; one line."""
    out = tmp_path / "new" / "out"
    words: dict[str, list[object]] = {
        "export": [run / "best.pt", "--codec-frames", 2, "--out", out],
        "calibrate": ["default", "--data", "generated", "--samples", 40, "--threads", 1, "--out", out],
        "evaluate": ["--sweep", "--reshuffles", 2, "--plot", out],
        "reproduce": ["3", "--out", out],
    }
    with files_of_at_most(3_000):
        assert status(command, *words[command]) == 2
    complaint = capsys.readouterr().err
    assert "File too large" in complaint
    assert complaint.startswith("popexd: ")
    assert complaint.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def interrupted(*words: object, when: Callable[[], bool]) -> tuple[int, str]:
    """Run the command by itself, press Ctrl-C as soon as it is time; status and standard error."""
    # Where the tests run in the background of a shell it is ignored, and what is started inherits that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "popexd.cli", *map(str, words)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    until(lambda: when() or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    _, complaint = process.communicate(timeout=120)
    return process.returncode, complaint


def test_ctrl_c_among_the_frames_leaves_nothing(tmp_path: Path) -> None:
    """The processes that prepare them with it end too, and say nothing."""
    words = ("train", "--out", tmp_path / "new" / "run", "--data", "generated", "--samples", 4000, *SMALL)
    ended = interrupted(*words, when=lambda: any(tmp_path.rglob("training-images.npy")))
    assert ended == (INTERRUPTED, "")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_among_the_epochs_leaves_whole_checkpoints(tmp_path: Path, run: Path, photos: Path) -> None:
    """From which the run goes on."""
    out, cache = tmp_path / "run", ("--cache", run / "data")
    words = ("train", "--out", out, "--data", photos, *SMALL, *cache, "--epochs", 5000, "--json")
    assert interrupted(*words, when=(out / "last.pt").is_file) == (INTERRUPTED, "")
    assert sorted(path.name for path in out.iterdir()) == ["best.pt", "last.pt"]
    assert checkpoint.load(out / "last.pt")["epoch"] >= checkpoint.load(out / "best.pt")["epoch"] >= 0


def test_ctrl_c_in_an_export_leaves_nothing(tmp_path: Path, run: Path, photos: Path) -> None:
    """Neither frames nor a bundle."""
    words = ("export", run / "best.pt", "--out", tmp_path / "bundle", "--cache", tmp_path / "frames", "--data", photos)
    ended = interrupted(*words, "--distort", "clear,blurred,noisy,dark", when=lambda: any(tmp_path.rglob("*.partial")))
    assert ended == (INTERRUPTED, "")
    assert list(tmp_path.iterdir()) == []


def test_a_run_among_the_photos_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str], photos: Path) -> None:
    """The next one would take its folder for a class; beside `train` and `val` there is room."""
    before = sorted(photos.rglob("*"))
    for words in (
        ["--out", photos / "run"],
        ["--out", photos],
        ["--out", tmp_path / "run", "--cache", photos / "frames"],
    ):
        assert status("train", "--data", photos, *words, *SMALL) == 2
        complaint = capfd.readouterr().err
        assert f"is among the photos of {photos}, expected another folder" in complaint
        assert complaint.count("\n") == 1
    assert sorted(photos.rglob("*")) == before
    for part in ("train", "val"):
        (tmp_path / "apart" / part).mkdir(parents=True)
        for name in ("dark", "light"):
            (tmp_path / "apart" / part / name).symlink_to(photos / name)
    assert status("train", "--data", tmp_path / "apart", "--out", tmp_path / "apart" / "run", *SMALL) == 0


def test_a_class_whose_name_is_no_text_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], photos: Path
) -> None:
    """A file's may be none; nor does a folder called like a picture matter."""
    odd = tmp_path / "odd"
    for name in ("dark", "light"):
        (odd / name).mkdir(parents=True)
        for path in sorted((photos / name).iterdir()):
            (odd / name / path.name).write_bytes(path.read_bytes())
    (odd / "dark" / "folder.png").mkdir()
    (odd / "dark" / "0.png").rename(os.fsdecode(os.fsencode(odd / "dark") + b"/caf\xe9.png"))
    assert status("train", "--data", odd, "--out", tmp_path / "run", *SMALL) == 0
    (odd / "dark").rename(os.fsdecode(os.fsencode(odd) + b"/caf\xe9"))
    capfd.readouterr()
    assert status("train", "--data", odd, "--out", tmp_path / "other", *SMALL) == 2
    complaint = capfd.readouterr().err
    assert r"'caf\udce9' is no text, expected the name of a class in UTF-8" in complaint
    assert complaint.count("\n") == 1


def test_any_text_may_name_a_class(tmp_path: Path) -> None:
    """Commas, equals signs, quotes, line ends, markup, other scripts: through training, export and evaluation."""
    names = ["a=b,c", 'd "e"', "ünï 猫", "new\nline", "t\tab", "[bold]x", "-dash", "%s {0}"]
    for number, name in enumerate(names):
        (tmp_path / "odd" / name).mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (40, 30), (20 * number, 20 * index, 90)).save(tmp_path / "odd" / name / f"{index}.png")
    assert status("train", "--data", tmp_path / "odd", "--out", tmp_path / "run", *SMALL) == 0
    bundle = tmp_path / "bundle"
    assert status("export", tmp_path / "run" / "best.pt", "--out", bundle, "--codec-frames", 2) == 0
    from popexd import bundle as bundles

    assert bundles.load(bundle).classes == tuple(sorted(names))
    assert status("evaluate", bundle, "--data", tmp_path / "run" / "data", "--threads", 1, "--reshuffles", 2) == 0
