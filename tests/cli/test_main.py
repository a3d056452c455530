"""The command line's manners: laziness, exit statuses, one line for whatever is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from popexd import __version__
from popexd.cli.main import COMMANDS, main
from popexd.cli.schema import KINDS
from popexd.errors import BusError, Infeasible, InputError

from .conftest import Run

HEAVY = ("torch", "onnxruntime", "paho", "PIL", "networkx", "typer", "pydantic", "structlog")


def popexd(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "from popexd.cli import main; main()", *words],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, **environment},
    )


def standing_in(monkeypatch: pytest.MonkeyPatch, error: BaseException | None = None, status: int = 0) -> None:
    """Put a command `schema` in the table that raises or ends with a status."""

    def command(flag: bool = False) -> None:
        if error is not None:
            raise error
        raise typer.Exit(status)

    monkeypatch.setattr(sys.modules["popexd.cli.main"], "_load", lambda _name: command)


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--version"], ["--nonsense"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    """Listing the commands costs no library."""
    code = (
        "import sys; from popexd.cli import main\n"
        f"try: main({words!r})\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True).stdout

    assert out.splitlines()[-1] == "[]"


def test_help_lists_every_command() -> None:
    """All of them, with a sentence, whether or not their program is installed."""
    shown = popexd("--help").stdout

    for commands in COMMANDS.values():
        for name, entry in commands.items():
            assert f"  {name:<10} {entry.summary}" in shown
    assert popexd().stdout == shown


def test_version() -> None:
    """One line."""
    assert popexd("--version").stdout == f"popexd {__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["schma"], "did you mean 'schema'"),
        (["--verbose"], "no option --verbose"),
        (["schema", "--nonsense"], "--nonsense"),
        (["schema", "one", "two"], "two"),
        (["schema", "stat"], "did you mean 'state'"),
        (["camera", "--fps", "fast"], "'--fps'"),
        (["camera", "--fps", "0"], "0"),
        (["camera", "--port", "99999"], "--port = 99999"),
        (["camera", "--camera", "a/b"], "--camera: 'a/b'"),
        (["camera", "--source", "/nowhere"], "/nowhere: no such folder"),
        (["camera", "--source", "gopher://x"], "expected one of"),
        (["watch", "--site", "a/+"], "--site = 'a/+'"),
        (["watch", "--config", "/nowhere.toml"], "/nowhere.toml"),
        (["watch", "--password-file", "/nowhere"], "/nowhere"),
        (["publish"], "images"),
        (["publish", "/nowhere.jpg"], "/nowhere.jpg: no such file"),
        (["publish", "--timeout-seconds", "0", "x"], "0"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(words: list[str], said: str) -> None:
    """What, where, what was expected; never a traceback."""
    ended = popexd(*words)

    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("popexd")
    assert said in ended.stderr


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("here: x, expected y"), 2, "popexd: here: x, expected y"),
        (Infeasible("no plan"), 1, "popexd: no plan"),
        (BusError("two\nlines"), 1, "popexd: two lines"),
        (PermissionError(13, "Permission denied", "/root/x"), 2, "popexd: /root/x: Permission denied"),
        (
            ModuleNotFoundError("", name="torch.nn"),
            2,
            "popexd schema needs the extra 'train': pip install 'popexd[train]'",
        ),
        (KeyError("x"), 70, "popexd: a bug: KeyError: 'x' (POPEXD_DEBUG=1 shows the traceback)"),
        (ModuleNotFoundError("no x", name="x"), 70, "popexd: a bug: ModuleNotFoundError: no x"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_errors_become_one_line_and_a_status(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    run: Run,
    error: BaseException,
    status: int,
    line: str,
) -> None:
    """By their place in the tree of errors."""
    monkeypatch.delenv("POPEXD_DEBUG", raising=False)
    standing_in(monkeypatch, error)

    assert run("schema") == status
    said = capfd.readouterr().err
    assert said.startswith(line)
    assert said.count("\n") == (1 if line else 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["train", "--out", "x", "--seed", "99999999999999999"],
            "--seed: 99999999999999999, expected at most 4294967295",
        ),
        (["evaluate", "--seed", "4294967296"], "--seed: 4294967296, expected at most"),
        (["calibrate", "default", "--data", "generated", "--out", "x", "--seed", "1e3"], "--seed"),
        (["reproduce", "--seed", "99999999999999999"], "--seed: 99999999999999999, expected at most"),
        (["reproduce", "--samples", "100001"], "--samples"),
        (["simulate", "--seed", "99999999999999999"], "--seed: 99999999999999999, expected at most"),
        (["camera", "--seed", "-1"], "--seed"),
        (["demo", "--seed", "-1"], "--seed"),
        (["camera", "--fps", "nan"], "--fps"),
        (["train", "--out", "x", "--learning-rate", "nan"], "--learning-rate"),
        (["train", "--out", "x", "--weight-decay", "nan"], "--weight-decay"),
        (["train", "--out", "x", "--weights", "nan,1,1"], "--weights: 'nan,1,1'"),
        (["train", "--out", "x", "--epochs", "0"], "--epochs"),
        (["train", "--out", "x", "--batch", "0"], "--batch"),
        (["train", "--out", "x", "--branches", "99999999999999"], "--branches: 99999999999999, expected at most"),
        (["train", "--out", "x", "--branches", "1000"], "--branches: 1000"),
        (["train", "--out", "x", "--samples", "99999999999999"], "--samples: 99999999999999, expected at most"),
        (["export", "x.pt", "--out", "x", "--allowance", "nan"], "--allowance"),
        (["evaluate", "--p-target", "nan"], "--p-target: nan"),
        (["evaluate", "--deadline-ms", "inf"], "--deadline-ms: inf"),
        (["evaluate", "--batch", "-1"], "--batch"),
        (["evaluate", "--data", "generated", "--samples", "4000000000"], "expected fewer: --samples"),
        (
            ["calibrate", "default", "--data", "generated", "--out", "x", "--target-accuracy", "nan"],
            "--target-accuracy",
        ),
        (
            ["calibrate", "default", "--data", "generated", "--out", "x", "--target-confidence", "nan"],
            "--target-confidence: nan, expected a finite number",
        ),
    ],
)
def test_numbers_that_no_option_means_are_one_line(
    words: list[str],
    said: str,
    run: Run,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Too large, too small, or none at all; whichever the command, and nothing is written."""
    monkeypatch.chdir(tmp_path)

    assert run(*words) == 2
    complaint = capfd.readouterr().err
    assert said in complaint
    assert complaint.count("\n") == 1
    assert "a bug" not in complaint
    assert list(tmp_path.iterdir()) == []


def test_a_command_chooses_its_own_status(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """typer.Exit passes through."""
    standing_in(monkeypatch, status=3)

    assert run("schema") == 3


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """For us, not for users."""
    monkeypatch.setenv("POPEXD_DEBUG", "1")
    standing_in(monkeypatch, KeyError("x"))
    with pytest.raises(KeyError):
        main(["schema"])


@pytest.mark.parametrize("name", [name for commands in COMMANDS.values() for name in commands])
def test_every_command_explains_itself(name: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """What the table promises can be imported and asked for help."""
    assert run(name, "--help") == 0
    assert f"popexd {name}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["train", "--out", "x"], ["export", "x", "--out", "y"]])
def test_without_the_extra_a_command_says_which_to_install(words: list[str], tmp_path: Path) -> None:
    """Training is not part of the runtime."""
    missing = "import sys; sys.modules.update(torch=None, torchvision=None, onnx=None, onnxscript=None)\n"
    ended = subprocess.run(
        [sys.executable, "-c", missing + "from popexd.cli import main; main()", *words],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=tmp_path,
    )

    assert ended.returncode == 2
    assert ended.stderr == f"popexd {words[0]} needs the extra 'train': pip install 'popexd[train]'\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    """`popexd … | head -1` prints nothing else."""
    with subprocess.Popen(
        [sys.executable, "-c", "from popexd.cli import main; main()", "schema", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_programs_come_by_entry_point(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The broker's commands are its own program's."""
    assert run("broker", "--help") == 0
    shown = capsys.readouterr().out

    assert "render" in shown
    assert "popexd broker" in shown


@pytest.mark.parametrize("name", sorted(KINDS))
def test_schema_prints_a_payloads_json_schema(name: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The document's own name is the payload's schema."""
    assert run("schema", name) == 0
    document = json.loads(capsys.readouterr().out)

    assert document["$id"] == f"popexd/{name}/1"
    assert document["properties"]["schema"]["const"] == f"popexd/{name}/1"


def test_schema_alone_lists_the_payloads(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """For people by line, for machines as one object."""
    assert run("schema") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(KINDS)
    assert run("schema", "--json") == 0
    assert list(json.loads(capsys.readouterr().out)) == list(KINDS)
