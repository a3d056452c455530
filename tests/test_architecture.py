"""The house stands as drawn: imports point down, foreign libraries stay at their doors, files stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = ("agent", "cloud_worker", "broker", "popexd.cli")
SOURCES = ("popexd", "agent", "cloud_worker", "broker")

# A module may import its own floor and those below. The longest prefix counts.
FLOORS = {
    "popexd.errors": 0,
    "popexd.plan": 0,
    "popexd.power": 0,
    "popexd.cut": 0,
    "popexd.profile": 0,
    "popexd.profile_file": 0,
    "popexd.topology": 0,
    "popexd.validation": 0,
    "popexd.criteria": 0,
    "popexd.network": 0,
    "popexd.complaints": 0,
    "popexd.bounds": 0,
    "popexd.arrays": 0,
    "popexd.folders": 0,
    "popexd.latency": 1,
    "popexd.estimators": 1,
    "popexd.quality": 1,
    "popexd.solvers": 1,
    "popexd.protocol": 1,
    "popexd.bundle": 2,
    "popexd.coordinator": 2,
    "popexd.simulation": 2,
    "popexd.config": 3,
    "popexd.kinds": 3,
    "popexd.fitting": 3,
    "popexd.changes": 3,
    "popexd.backoff": 3,
    "popexd.service": 3,
    "popexd.journal": 3,
    "popexd.logs": 3,
    "popexd.bus": 3,
    "popexd.runtime": 3,
    "popexd.evaluation": 3,
    "popexd.training": 3,
    "popexd.lab": 3,
    **dict.fromkeys(PROGRAMS, 4),
    "popexd": 0,
}

# Besides the floors: what these may import of ours at most.
BESIDES = {
    "popexd.errors": (),
    "popexd.logs": ("popexd.journal",),
    "popexd.journal": (),
    "popexd.backoff": (),
    "popexd.service": ("popexd.backoff", "popexd.errors", "popexd.logs"),
    "popexd.changes": ("popexd.config",),
    "popexd.complaints": (),
    "popexd.bounds": (),
    "popexd.folders": (),
    "popexd.kinds": ("popexd.bounds", "popexd.complaints", "popexd.errors", "popexd.protocol", "popexd.solvers"),
    "popexd.config": ("popexd.complaints", "popexd.errors", "popexd.kinds", "popexd.protocol", "popexd.solvers"),
    "popexd.bundle": (
        "popexd.arrays",
        "popexd.bundle",
        "popexd.criteria",
        "popexd.folders",
        "popexd.quality",
        "popexd.errors",
        "popexd.plan",
        "popexd.profile",
        "popexd.validation",
        "popexd.protocol",
    ),
}

# Who may import what is not ours. numpy is everyone's.
DOORS = {
    "apscheduler": ("agent.schedule",),
    "cryptography": ("broker.authority", "popexd.cli.doctor.certificates"),
    "cv2": ("popexd.cli.sources",),
    "matplotlib": ("popexd.lab.panels",),
    "networkx": ("popexd.solvers",),
    "onnx": ("popexd.training",),
    "onnxruntime": ("popexd.runtime",),
    "onnxscript": ("popexd.training",),
    "paho": ("popexd.bus.mqtt",),
    "PIL": ("popexd.runtime.frames", "popexd.lab", "popexd.training"),
    "pydantic": (
        "popexd.protocol",
        "popexd.config",
        "popexd.kinds",
        "popexd.complaints",
        "popexd.cli.connection",
        "popexd.runtime.background",
    ),
    "pydantic_settings": ("popexd.config",),
    "rich": ("popexd.cli", "popexd.lab", "popexd.training", "agent.cli", "cloud_worker.cli", "broker.cli"),
    "scipy": ("popexd.solvers", "popexd.training.regression", "popexd.evaluation", "popexd.lab.distortions"),
    "safetensors": ("popexd.protocol", "popexd.training"),
    "speedtest": ("agent.probes",),
    "structlog": ("popexd.logs",),
    "torch": ("popexd.training",),
    "torchvision": ("popexd.training",),
    "typer": ("popexd.cli", "popexd.lab.demo", "agent.cli", "cloud_worker.cli", "broker.cli", "broker.admission"),
    "zstandard": ("popexd.protocol",),
}

# Below the brain nothing has a clock, a thread, a socket, a process or chance; the brain is told the time too.
IMPURE = {"asyncio", "multiprocessing", "os", "random", "secrets", "socket", "subprocess", "threading", "time"}
PURE = ("popexd.coordinator", *(name for name, floor in FLOORS.items() if floor < 2 and name != "popexd"))

FILE_LINES = 400
FUNCTION_LINES = 50
# path, or path:function, and the reason it may be longer.
LONGER: dict[str, str] = {}


@dataclass(frozen=True)
class Import:
    """One import statement: who, what, where."""

    module: str
    target: str
    place: str


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the library and the programs."""
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


@cache
def imports() -> tuple[Import, ...]:
    """Every import in them, inside functions too; `from x import y` counts as x.y where that is a module."""
    known = {name for name, _ in modules()}
    found = []
    for module, path in modules():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            found += [Import(module, target, place) for target in targets(node, package, known)]
    return tuple(found)


def targets(node: ast.AST, package: str, known: set[str]) -> list[str]:
    """Name what one statement imports, in full."""
    match node:
        case ast.Import(names=names):
            return [each.name for each in names]
        case ast.ImportFrom(module=name, names=names, level=level):
            above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
            origin = ".".join([*above, *([name] if name else [])])
            return [f"{origin}.{each.name}" if f"{origin}.{each.name}" in known else origin for each in names]
        case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
            return [name]
    return []


def within(module: str, prefix: str) -> bool:
    """Tell whether `module` is `prefix` or inside it."""
    return module == prefix or module.startswith(prefix + ".")


def longest(module: str, prefixes: dict[str, int]) -> str:
    """Find the entry a module belongs to."""
    return max((each for each in prefixes if within(module, each)), key=len)


def ours(target: str) -> bool:
    """Tell our modules from foreign ones."""
    return target.partition(".")[0] in SOURCES


def program(module: str) -> str | None:
    """Name the program a module belongs to."""
    return next((each for each in PROGRAMS if within(module, each)), None)


def test_every_module_has_its_place() -> None:
    """A new top-level module is put on a floor on purpose."""
    homeless = [
        name for name, _ in modules() if longest(name, FLOORS) == "popexd" and name not in {"popexd", "popexd.__main__"}
    ]
    assert not homeless, "\n".join(homeless)


def test_imports_point_down() -> None:
    """Programs stand on adapters, these on the brain, it on solvers and protocol, these on values."""
    upward = [
        f"{each.place}: {each.module} imports {each.target}"
        for each in imports()
        if ours(each.target) and FLOORS[longest(each.target, FLOORS)] > FLOORS[longest(each.module, FLOORS)]
        if each.module != "popexd.__main__"
    ]
    assert not upward, "\n".join(upward)


def test_what_stands_beside_the_floors_leans_on_little() -> None:
    """Settings, logging, errors and the bundle on disk import next to nothing of ours."""
    wrong = [
        f"{each.place}: {each.module} imports {each.target}"
        for each in imports()
        if each.module in BESIDES and ours(each.target) and each.target != "popexd"
        if not any(within(each.target, allowed) for allowed in BESIDES[each.module])
    ]
    assert not wrong, "\n".join(wrong)


def test_programs_never_import_each_other() -> None:
    """Nor does anyone else; inside a program imports are relative."""
    wrong = [
        f"{each.place}: {each.module} imports {each.target}"
        for each in imports()
        if program(each.target) not in {None, program(each.module)}
    ]
    absolute = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for module, path in modules()
        if module.split(".")[0] in PROGRAMS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] in PROGRAMS
    ]
    assert not wrong + absolute, "\n".join(wrong + absolute)


def test_foreign_libraries_stay_at_their_doors() -> None:
    """Each has one place that knows it; a library without a door is not used."""
    wrong = [
        f"{each.place}: {each.target}"
        for each in imports()
        for library in [each.target.split(".")[0]]
        if not ours(each.target) and library not in sys.stdlib_module_names and library != "numpy"
        if not any(within(each.module, door) for door in DOORS.get(library, ()))
    ]
    assert not wrong, "\n".join(wrong)


def test_the_lower_floors_and_the_brain_have_no_clock_and_no_hands() -> None:
    """Neither time, threads, sockets, processes, the system nor chance."""
    wrong = [
        f"{each.place}: {each.target}"
        for each in imports()
        if each.target.split(".")[0] in IMPURE and any(within(each.module, pure) for pure in PURE)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", ["popexd.solvers", "popexd.coordinator", "popexd.simulation", "popexd.latency"])
def test_planners_brain_and_simulator_load_nothing_heavy(module: str) -> None:
    """They import without torch, onnxruntime, paho and Pillow."""
    heavy = ("torch", "onnxruntime", "onnx", "paho", "PIL", "apscheduler", "speedtest", "typer")
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True).stdout

    assert out.strip() == "[]"


def test_no_other_distribution_provides_our_top_level_names() -> None:
    """`agent` and `broker` are generic words; in our environment they are ours."""
    installed = packages_distributions()

    for name in SOURCES:
        assert set(installed.get(name, ["popexd"])) == {"popexd"}


def long_ones() -> Iterator[str]:
    """Find files and functions past their length."""
    for folder in (*SOURCES, "tests", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
            if text.count("\n") > FILE_LINES:
                yield name
            for node in ast.walk(ast.parse(text)):
                function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                if function and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES:
                    yield f"{name}:{node.name}"


def test_files_and_functions_stay_small() -> None:
    """400 and 50 lines; the exceptions are listed with their reason, and the list has no others."""
    found = set(long_ones())

    assert not found - set(LONGER), "\n".join(sorted(found - set(LONGER)))
    assert not set(LONGER) - found, "no longer needed: " + ", ".join(sorted(set(LONGER) - found))
