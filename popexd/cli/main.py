"""The `popexd` command: a table of commands, each imported only when it is called.

Exit status: 0; 1 for a negative answer, or one that could not be written; 2 for bad usage or input, with one line on
standard error; 70 for a fault of popexd itself; 130 after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import popexd
from popexd.errors import InputError, PopexdError

USAGE = 2
BUG = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130  # 128 + SIGINT, as shells report it

# What a file that is open says when no more goes in: standard output or any other, which has no name then.
UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})

GROUP = "popexd.commands"


@dataclass(frozen=True, slots=True)
class Entry:
    """One command: what it does, where it is (`module:function`; None: a program, found by entry point)."""

    summary: str
    target: str | None = None


COMMANDS: dict[str, dict[str, Entry]] = {
    "See it work": {
        "demo": Entry(
            "broker, worker, agent and camera on this machine, over a link that changes", "popexd.lab.demo:demo"
        ),
    },
    "Run it": {
        "agent": Entry("the daemon on the device: run, check"),
        "worker": Entry("the worker that finishes what agents send: run"),
        "broker": Entry("Mosquitto with accounts and TLS: init, add, revoke, renew, list, render, run"),
    },
    "Use it": {
        "camera": Entry("publish the frames of a folder, a camera or the generator", "popexd.cli.camera:camera"),
        "publish": Entry("publish images and print the answers", "popexd.cli.publish:publish"),
        "watch": Entry("live view of results, decision, metrics and events", "popexd.cli.watch:watch"),
        "doctor": Entry(
            "what is wrong with this machine, the configuration or the broker", "popexd.cli.doctor.command:doctor"
        ),
        "quality": Entry("the image-quality class of photos, as the daemon sees them", "popexd.cli.quality:quality"),
        "schema": Entry("JSON Schema of a payload", "popexd.cli.schema:schema"),
    },
    "Plan": {
        "profile": Entry("measure a bundle's segments on this machine", "popexd.cli.profile:profile"),
        "plan": Entry("one decision for a profile and a link", "popexd.cli.plan:plan"),
        "compare": Entry("every solver side by side on the same problem", "popexd.cli.compare:compare"),
        "simulate": Entry(
            "agent, workers and links on a virtual clock, faults drawn from seeds", "popexd.cli.simulate:simulate"
        ),
        "reproduce": Entry("the seed paper's figures 3 to 7 as data and pictures", "popexd.cli.reproduce:reproduce"),
    },
    "Train": {
        "train": Entry("train an early-exit model (extra: train)", "popexd.cli.train:train"),
        "export": Entry("turn a trained model into a bundle (extra: train)", "popexd.cli.export:export"),
        "calibrate": Entry(
            "a bundle whose exits mean what they say, fitted on photos", "popexd.cli.calibrate:calibrate"
        ),
        "evaluate": Entry("what a bundle's exits are worth, and other thresholds", "popexd.cli.evaluate:evaluate"),
    },
}

# What each optional extra of the distribution brings: a missing one is the user's to install, not a fault.
EXTRAS = {"torch": "train", "torchvision": "train", "onnx": "train", "onnxscript": "train", "matplotlib": "plot"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    _write_any_text()
    try:
        status = _guarded(words)
        if sys.stdout is not None:  # closed by whoever started us
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone.
        _forget_what_is_unwritten()
        status = 1
    except OSError as error:
        if _debugging():
            raise
        _forget_what_is_unwritten()
        status = _say(f"popexd: cannot write: {error.strerror}", 1)
    except KeyboardInterrupt:
        status = INTERRUPTED
    sys.exit(status)


def _write_any_text() -> None:
    """Have what a terminal of another encoding cannot show written as an escape, where Python would give up."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _forget_what_is_unwritten() -> None:
    """Python flushes standard output once more at exit, and must not meet the closed pipe or the full disk again."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _debugging() -> bool:
    return os.environ.get("POPEXD_DEBUG", "0") not in {"", "0"}


def _guarded(words: list[str]) -> int:
    """Run the command; whatever is raised becomes one line and a status, unless POPEXD_DEBUG asks for the traceback."""
    try:
        return _dispatch(words)
    except (BrokenPipeError, KeyboardInterrupt):
        raise
    except Exception as error:
        if _debugging() or (isinstance(error, OSError) and error.filename is None and error.errno in UNWRITABLE):
            raise
        if isinstance(error, PopexdError):
            return _say(f"popexd: {_one_line(error)}", USAGE if isinstance(error, InputError) else 1)
        if isinstance(error, ModuleNotFoundError) and (extra := EXTRAS.get((error.name or "").split(".")[0])):
            return _say(f"popexd {words[0]} needs the extra {extra!r}: pip install 'popexd[{extra}]'", USAGE)
        if isinstance(error, OSError) and error.filename is not None:
            return _say(f"popexd: {error.filename}: {error.strerror}", USAGE)
        fault = f"popexd: a bug: {type(error).__name__}: {_one_line(error)}"
        return _say(f"{fault} (POPEXD_DEBUG=1 shows the traceback)", BUG)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in {"-h", "--help", "help"}:
        print(_help())
        return 0
    if words[0] == "--version":
        print(f"popexd {popexd.__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name.startswith("-"):
        raise InputError(f"no option {name}, expected a command; popexd --help lists them")
    return _call(_load(name), name, rest)


def _load(name: str) -> Any:
    """Return the typer app or function behind a command."""
    entry = next((commands[name] for commands in COMMANDS.values() if name in commands), None)
    if entry is not None and entry.target is not None:
        module, function = entry.target.split(":")
        return getattr(importlib.import_module(module), function)
    for point in entry_points(group=GROUP, name=name):
        return point.load()
    if entry is not None:
        raise InputError(f"{name}: this installation has no such program, expected popexd to be installed with pip")
    from popexd.complaints import nearest

    known = {each for commands in COMMANDS.values() for each in commands}
    raise InputError(f"no command {name!r}{nearest(name, known)}; popexd --help lists them")


def _call(command: Any, name: str, words: list[str]) -> int:
    """Run a function or typer app on the rest of the words."""
    import typer

    from popexd.cli.numbers import checked

    app = command
    if not isinstance(command, typer.Typer):
        app = typer.Typer(add_completion=False)
        app.command(name)(checked(command))
    # Newer typers carry their own copy of click, older ones import it; either way this is its ClickException, the
    # parent of every complaint about usage.
    usage_error: Any = typer.BadParameter.__mro__[2]
    try:
        status = typer.main.get_command(app).main(words, prog_name=f"popexd {name}", standalone_mode=False)
    except usage_error as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())
            return USAGE
        context = getattr(error, "ctx", None)
        path = context.command_path if context else f"popexd {name}"
        return _say(f"{path}: {_one_line(error.format_message())} ({path} --help explains)", USAGE)
    except typer.Abort:
        return INTERRUPTED
    return status if isinstance(status, int) else 0


def _help() -> str:
    """List every command without importing any."""
    lines = ["popexd: early-exit, split neural networks over MQTT", "", "usage: popexd COMMAND [OPTIONS]"]
    for heading, commands in COMMANDS.items():
        lines += ["", heading, *(f"  {name:<10} {entry.summary}" for name, entry in commands.items())]
    known = {name for commands in COMMANDS.values() for name in commands}
    others = sorted(point.name for point in entry_points(group=GROUP) if point.name not in known)
    if others:
        lines += ["", "Others", *(f"  {name}" for name in others)]
    return "\n".join([*lines, "", "popexd COMMAND --help explains one; popexd --version"])


def _say(line: str, status: int) -> int:
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr)
    return status


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
