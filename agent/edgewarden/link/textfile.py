"""The status as a file for node_exporter's textfile collector.

Decides which numbers of `edgewarden status` are metrics, and how the file comes to be. Leaves
collecting to node_exporter, and what the numbers mean to the status they are taken from: nothing is
measured here. A number that is not known is left out, never zero.

* Prometheus text exposition format 0.0.4: HELP and TYPE before each family, labels escaped.
* Written beside its name and renamed over it, so that no reader sees half of it; 0644, whatever the
  umask: it holds what status shows to everybody in the group, and no secret.
* A file that cannot be written is counted and tried again; it stops nothing.

    Textfile("/var/lib/prometheus/node-exporter/edgewarden.prom", 15, status, in_step)
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path

MAX_SERIES = 1000
"""Thirty-two ports, three classes and 49 collectors make under 250; devices are not in it."""

_EACH = "*"
FAMILIES: tuple[tuple[str, str, str, tuple[str, ...], str], ...] = (
    ("uplink_connected", "gauge", "A session with the broker stands.", ("uplink", "connected"), ""),
    ("uplink_reconnects_total", "counter", "Sessions after the first.",
     ("uplink", "reconnects"), ""),
    ("spool_durable", "gauge", "Highest durable sequence.", ("spool", _EACH, "durable"), "class"),
    ("spool_acked", "gauge", "Highest acknowledged sequence.", ("spool", _EACH, "acked"), "class"),
    ("spool_bytes", "gauge", "Disk that the class takes.", ("spool", _EACH, "bytes"), "class"),
    ("spool_evicted_total", "counter", "Records given up for room.",
     ("spool", _EACH, "evicted"), "class"),
    ("overload_level", "gauge", "Degraded mode: 0 normal, 1 coalescing, 2 sampling, 3 essential.",
     ("overload", "level"), ""),
    ("overload_steps_total", "counter", "Steps between modes.", ("overload", "steps"), ""),
    ("overload_facts_total", "counter", "Facts made one with others, or counted only.",
     ("overload", "shed", _EACH), "what"),
    ("exec_allowed_total", "counter", "Programs let start.",
     ("enforcement", "exec", "allowed"), ""),
    ("exec_denied_total", "counter", "Programs denied.", ("enforcement", "exec", "denied"), ""),
    ("exec_would_deny_total", "counter", "Programs that enforcing would have denied.",
     ("enforcement", "exec", "would_deny"), ""),
    ("peripherals_denied_total", "counter", "Devices denied.",
     ("enforcement", "peripherals", "denied"), ""),
    ("network_denied_total", "counter", "Connections denied.",
     ("enforcement", "network", "denied"), ""),
    ("sensor_readings_total", "counter", "Readings of a port.",
     ("sensors", _EACH, "readings"), "sensor"),
    ("sensor_bad_frames_total", "counter", "Frames of a port that were not one.",
     ("sensors", _EACH, "bad_frames"), "sensor"),
    ("sensor_silent_seconds", "gauge", "Since the port was last heard.",
     ("sensors", _EACH, "silent_s"), "sensor"),
    ("attestation_age_seconds", "gauge", "Since the last verdict.", ("attestation", "age_s"), ""),
    ("clock_uncertainty_seconds", "gauge", "How far the clock may be off.",
     ("clock", "uncertainty_s"), ""),
    ("cpu_seconds_total", "counter", "CPU of the agent.", ("footprint", "cpu_s"), ""),
    ("pss_bytes", "gauge", "Memory of the agent.", ("footprint", "pss_bytes"), ""),
    ("written_day_bytes", "gauge", "Written to disks within a day.",
     ("footprint", "written_bytes_day"), ""),
    ("records_day_bytes", "gauge", "Of them records, by whose facts they hold.",
     ("footprint", "written_by", _EACH), "collector"),
    ("written_overhead_day_bytes", "gauge", "Of them no record's own.",
     ("footprint", "overhead_bytes_day"), ""),
    ("written_budget_day_bytes", "gauge", "[spool] day_budget_bytes.",
     ("footprint", "budget_bytes_day"), ""),
)  # fmt: skip
"""Name without prefix, type, help, place in status (* each), name of the label."""
VERDICTS = ("ok", "degraded", "failing")


def render(status: Mapping[str, object]) -> str:
    """The whole file."""
    device, version = str(status["device"]), str(status["version"])
    out = [
        *_head("info", "gauge", "Which gateway, and what runs on it."),
        _line("info", {"device": device, "version": version}, 1),
        *_head("verdict", "gauge", "1 for the verdict of status, 0 for the others."),
        *(_line("verdict", {"verdict": v}, int(status["verdict"] == v)) for v in VERDICTS),
    ]
    for name, kind, text, place, label in FAMILIES:
        found = [
            _line(name, {label: key} if label else {}, value) for key, value in _at(status, place)
        ]
        if found:
            out += [*_head(name, kind, text), *found]
    return "\n".join(out[: MAX_SERIES * 3]) + "\n"


def write(path: Path, text: str) -> None:
    """Put the file in its place, whole; raises OSError."""
    fresh = path.with_name(f".{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(fresh, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), 0o644)
    fresh.replace(path)


class Textfile:
    """Writes it, every period; without a path it does nothing. On the loop's thread.

    Args:
        status: makes the status object, about a millisecond.
        pause: sleeps so many seconds.

    Attributes:
        failures: times that the file could not be written.
    """

    def __init__(
        self,
        path: str | None,
        period_s: float,
        status: Callable[[], Mapping[str, object]],
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        self._path = None if path is None else Path(path)
        self._period_s = period_s
        self._status = status
        self._pause = pause
        self.failures = 0

    async def run(self) -> None:
        """Until cancelled."""
        while self._path is not None:
            try:
                write(self._path, render(self._status()))
            except OSError:
                self.failures += 1
            await self._pause(self._period_s)


def _at(status: Mapping[str, object], place: tuple[str, ...]) -> Iterator[tuple[str, float]]:
    """(key at *, number) of everything there; what is no number is left out."""
    rows: list[tuple[str, object]] = [("", status)]
    for step in place:
        deeper: list[tuple[str, object]] = []
        for key, at in rows:
            if not isinstance(at, Mapping):
                continue
            if step == _EACH:
                deeper += [(str(name), at[name]) for name in at]
            elif step in at:
                deeper.append((key, at[step]))
        rows = deeper
    for key, value in rows:
        if isinstance(value, (bool, int, float)):
            yield key, float(value)


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP edgewarden_{name} {text}", f"# TYPE edgewarden_{name} {kind}"


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"edgewarden_{name}{'{' + shown + '}' if shown else ''} {float(value):.17g}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
