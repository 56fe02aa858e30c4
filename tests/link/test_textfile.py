"""Status as Prometheus text: whole or not there, nothing invented, read by promtool."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from edgewarden.link.textfile import FAMILIES, Textfile, render, write

STATUS: dict[str, object] = {
    "device": "gw-demo",
    "version": "0.1.0",
    "verdict": "degraded",
    "attestation": {"result": "none", "age_s": None},
    "clock": {"state": "ntp", "uncertainty_s": 0.02},
    "uplink": {"connected": True, "reconnects": 3},
    "spool": {c: {"next": 5, "durable": 4, "acked": 2, "bytes": 4096, "evicted": 0}
              for c in ("alarm", "audit", "bulk")},
    "enforcement": {"exec": {"allowed": 7, "denied": 1, "would_deny": 0},
                    "peripherals": {"denied": 0}, "network": {"denied": None}},
    "sensors": {"gps": {"readings": 2**53 - 1, "bad_frames": 0, "silent_s": 0.5}},
    "overload": {"level": 2, "steps": 5, "shed": {"routine_shed": 9}},
    "footprint": {"pss_bytes": 1, "cpu_s": 0.25, "written_bytes_day": 9,
                  "written_by": {"gps": 5, "host": 2}, "overhead_bytes_day": None,
                  "budget_bytes_day": 1000},
}  # fmt: skip


def test_what_is_known_is_there_and_what_is_not_is_left_out() -> None:
    lines = render(STATUS).splitlines()
    assert 'edgewarden_info{device="gw-demo",version="0.1.0"} 1' in lines
    assert 'edgewarden_verdict{verdict="degraded"} 1' in lines
    assert 'edgewarden_verdict{verdict="ok"} 0' in lines
    assert "edgewarden_uplink_connected 1" in lines
    assert 'edgewarden_spool_acked{class="audit"} 2' in lines
    assert 'edgewarden_sensor_readings_total{sensor="gps"} 9007199254740991' in lines
    assert "edgewarden_overload_level 2" in lines
    assert 'edgewarden_records_day_bytes{collector="gps"} 5' in lines
    assert "edgewarden_written_budget_day_bytes 1000" in lines
    assert not [ln for ln in lines if "written_overhead" in ln]
    assert "edgewarden_overload_steps_total 5" in lines
    assert 'edgewarden_overload_facts_total{what="routine_shed"} 9' in lines
    assert not [ln for ln in lines if "network_denied" in ln or "attestation_age" in ln]


def test_a_name_cannot_break_out_of_its_label() -> None:
    odd = {**STATUS, "sensors": {'a"} 1\nedgewarden_evil 1\\': {"readings": 1}}}
    (line,) = [ln for ln in render(odd).splitlines() if ln.startswith("edgewarden_sensor_readings")]
    assert line.endswith('"} 1')
    assert "\nedgewarden_evil" not in render(odd)


@pytest.mark.needs("promtool")
def test_promtool_has_nothing_to_say() -> None:
    odd = {**STATUS, "sensors": {'a"\n\\': {"readings": 1, "bad_frames": 2, "silent_s": 3}}}
    promtool = shutil.which("promtool")
    assert promtool is not None
    for status in (STATUS, odd):
        done = subprocess.run(
            [promtool, "check", "metrics"], input=render(status), capture_output=True, text=True,
            timeout=30, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_counters_are_named_as_counters() -> None:
    assert all((kind == "counter") == name.endswith("_total") for name, kind, *_ in FAMILIES)


def test_it_is_replaced_whole_and_everybody_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "edgewarden.prom"
    was = os.umask(0o077)
    try:
        write(path, "a 1\n")
        before = path.stat().st_ino
        write(path, "a 2\n")
    finally:
        os.umask(was)
    assert path.read_text() == "a 2\n"
    assert path.stat().st_ino != before, "renamed over, not written into"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_link_in_its_way_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (tmp_path / ".edgewarden.prom.new").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        write(tmp_path / "edgewarden.prom", "a 1\n")
    assert victim.read_text() == "kept"


def test_without_a_path_nothing_is_asked_or_written() -> None:
    def never() -> dict[str, object]:
        raise AssertionError

    async def unused(seconds: float) -> None:
        raise AssertionError

    asyncio.run(Textfile(None, 15, never, unused).run())


def test_a_folder_that_is_not_there_stops_nothing(tmp_path: Path) -> None:
    paused: list[float] = []

    async def twice(seconds: float) -> None:
        paused.append(seconds)
        if len(paused) == 2:
            raise asyncio.CancelledError

    one = Textfile(str(tmp_path / "none" / "x.prom"), 15, lambda: STATUS, twice)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(one.run())
    assert (one.failures, paused) == (2, [15, 15])
