"""What /proc says of a process: memory, processor time, context switches, children."""

from __future__ import annotations

import os
from pathlib import Path

MB = 1024 * 1024
TICKS_S = os.sysconf("SC_CLK_TCK")


def pss_mb(pid: int) -> float:
    """Proportional set size: each page divided by how many processes map it."""
    return _rollup(pid, "Pss:")


def rss_mb(pid: int) -> float:
    """Resident set size: pages in memory, whoever else maps them."""
    return _rollup(pid, "Rss:")


def uss_mb(pid: int) -> float:
    """Pages that nobody else maps: what ending the process would free."""
    return _rollup(pid, "Private_Clean:") + _rollup(pid, "Private_Dirty:")


def _rollup(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024 / MB
    raise LookupError(f"the kernel does not tell {name} of process {pid}")


def cpu_s(pid: int) -> float:
    """Processor time so far, all threads: nanoseconds where the kernel keeps them, else ticks."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((t / "schedstat").read_text().split()[0]) for t in tasks) / 1e9
    except FileNotFoundError:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_S


def switches(pid: int) -> int:
    """Context switches so far, all threads."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if "ctxt_switches:" in line:
                total += int(line.split()[1])
    return total


def children(pid: int) -> dict[int, str]:
    """pid -> command line of each child."""
    found: dict[int, str] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            line = Path(f"/proc/{child}/cmdline").read_bytes()
            found[int(child)] = line.replace(b"\0", b" ").decode(errors="replace")
    return found


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    from platform import machine as architecture
    from platform import python_version, release

    cpu = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.lower().startswith("model name"):
            cpu = cpu or line.partition(":")[2].strip()
    os_release = dict(
        line.split("=", 1)
        for line in Path("/etc/os-release").read_text().splitlines()
        if "=" in line
    )
    return {
        "cpu": cpu or "unknown",
        "cores": os.cpu_count() or 1,
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MB,
        "architecture": architecture(),
        "kernel": release(),
        "os": os_release.get("PRETTY_NAME", "").strip('"'),
        "python": python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
    }
