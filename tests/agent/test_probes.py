"""The outside speed test: a process of its own, whose every way to fail costs nothing."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from agent.probes import SpeedTest
from tests.bus.waiting import until


class Found:
    """Keeps the rates that were handed on."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def __call__(self, bits_per_second: float) -> None:
        """Keep one."""
        self.rates.append(bits_per_second)


def script(folder: Path, *lines: str) -> tuple[str, ...]:
    """A stand-in for speedtest-cli."""
    file = folder / "speedtest.py"
    file.write_text("\n".join(lines))
    return (sys.executable, str(file))


def finished(test: SpeedTest) -> bool:
    """Whether no test is under way."""
    return test._thread is not None and not test._thread.is_alive()


def test_the_upload_rate_is_handed_on(tmp_path: Path) -> None:
    """In bits per second, as the program prints it in JSON."""
    found = Found()
    test = SpeedTest(found, script(tmp_path, 'print(\'{"download": 1.0, "upload": 5500000.5}\')'))
    test.start()

    until(lambda: finished(test), "the test's end")
    assert found.rates == [5500000.5]


@pytest.mark.parametrize(
    "lines",
    [
        ["print('Cannot retrieve speedtest configuration')"],
        ["print('{\"download\": 1.0}')"],
        ["print('{\"upload\": null}')"],
        ["print('{\"upload\": 0}')"],
        ["print('{\"upload\": -3}')"],
        ["print('{\"upload\": Infinity}')"],
        ["print('{\"upload\": NaN}')"],
        ["print('[]')"],
        ["print('5')"],
        ["import sys; sys.stdout.buffer.write(bytes([255, 254]))"],
        ["raise SystemExit(3)"],
        [],
    ],
)
def test_whatever_it_says_instead_is_no_rate(tmp_path: Path, lines: list[str]) -> None:
    """Nothing is handed on, nothing is raised, and the next test may begin."""
    found = Found()
    test = SpeedTest(found, script(tmp_path, *lines))
    test.start()
    until(lambda: finished(test), "the test's end")
    test.start()
    until(lambda: finished(test), "the next test's end")

    assert found.rates == []


def test_a_program_that_is_not_there_is_no_rate(tmp_path: Path) -> None:
    """Such as on a machine without speedtest-cli."""
    found = Found()
    test = SpeedTest(found, (str(tmp_path / "nothing"),))
    test.start()

    until(lambda: finished(test), "the test's end")
    assert found.rates == []


def test_a_program_that_hangs_is_ended(tmp_path: Path) -> None:
    """After its time, and without a trace."""
    found = Found()
    test = SpeedTest(found, script(tmp_path, "import threading", "threading.Event().wait()"), timeout_seconds=0.2)
    test.start()

    until(lambda: finished(test), "the test's end")
    assert found.rates == []


def test_one_test_runs_at_a_time(tmp_path: Path) -> None:
    """A second start while one is under way does nothing; stopping ends it at once."""
    trace = tmp_path / "trace"
    lines = ["import threading", f"open({str(trace)!r}, 'a').write('x')", "threading.Event().wait()"]
    test = SpeedTest(Found(), script(tmp_path, *lines))
    test.start()
    until(lambda: trace.exists() and trace.read_text() == "x", "the first")
    first = test._thread
    test.start()
    assert test._thread is first

    test.stop()
    assert finished(test)
    assert trace.read_text() == "x"


def test_stopping_before_anything_began_is_no_fault() -> None:
    """There is nothing to end."""
    before = set(threading.enumerate())
    SpeedTest(Found(), ("true",)).stop()

    assert set(threading.enumerate()) <= before


def test_speedtest_cli_is_only_loaded_in_a_process_of_its_own() -> None:
    """It reaches for the network and replaces streams where it is imported."""
    command = SpeedTest(Found())._command

    assert command[:3] == (sys.executable, "-m", "speedtest")
    assert "--json" in command
    assert "speedtest" not in sys.modules
