"""Three figures of the kernel: beside the library that everybody knows, and at their edges."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from edgewarden.sense.proc_stat import Processors, disk, memory, stalled

STAT = Path("/proc/stat")


def test_memory_and_disk_are_what_psutil_says(tmp_path: Path) -> None:
    available, used = memory(Path("/proc/meminfo").read_text())
    theirs = psutil.virtual_memory()
    assert available == pytest.approx(theirs.available, rel=0.1)
    assert used == pytest.approx(1 - theirs.available / theirs.total, abs=0.05)
    free, share = disk(str(tmp_path))
    usage = psutil.disk_usage(str(tmp_path))
    assert free == pytest.approx(usage.free, rel=0.01)
    assert share == pytest.approx(usage.percent / 100, abs=0.01)


def test_processors_since_the_look_before() -> None:
    processors = Processors()
    assert processors.used("cpu  100 10 50 800 40 0 0 0 90 10") == 0.0, "nothing to compare with"
    assert processors.used("cpu  130 10 60 840 60 0 0 0 120 10") == pytest.approx(0.4)
    assert processors.used("cpu  130 10 60 840 60 0 0 0 120 10") == 0.0, "no time has passed"
    assert processors.used("cpu  10 0 0 0 0") == 0.0, "a counter that goes back"
    assert 0.0 <= Processors().used(STAT.read_text()) <= 1.0


@pytest.mark.parametrize("text", ["", "cpu0 1 2 3 4 5", "cpu 1 2 3", "cpu a b c d e"])
def test_no_processors_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Processors().used(text)


@pytest.mark.parametrize("text", ["", "MemTotal: 8 kB\n", "MemTotal: 0 kB\nMemAvailable: 0 kB\n"])
def test_no_memory_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="available"):
        memory(text)


def test_how_long_programs_waited_is_the_first_figure_of_some() -> None:
    text = "some avg10=12.34 avg60=1.00 avg300=0.10 total=99\nfull avg10=0.00 total=1\n"
    assert stalled(text) == 12.34


@pytest.mark.parametrize("text", ["", "full avg10=1.00", "some avg60=1.00", "some avg10=x"])
def test_no_pressure_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        stalled(text)
