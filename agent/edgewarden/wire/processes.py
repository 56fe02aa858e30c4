"""What is known of processes and listeners: values that inventory/ makes and watch/ reads.

Decides nothing. "" or -1 means "not visible", never "no".

    Process(pid=7, start_ticks=100, comm="cp", ppid=1, uid=1000, euid=1000)
"""

from __future__ import annotations

from collections.abc import Mapping

from edgewarden.plain import dataclass
from edgewarden.wire.facts import Plain

UNKNOWN = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process, as one look saw it.

    Attributes:
        pid: its number.
        start_ticks: clock ticks after boot; with the pid it names one process for ever.
        comm: what it calls itself, at most 15 bytes.
        ppid: its parent now (1 where that has ended).
        uid, euid: real and effective user; UNKNOWN when it was gone.
        capabilities: effective ones, as a mask.
        tracer_pid: who traces it, 0 for nobody.
        command: command line, NUL between arguments; at most 256 bytes.
        exe: what the kernel runs, "" where only root may know.
        unit: systemd unit or scope of its cgroup, "" outside.
        loose_folder: the first folder on the program's way that everybody can write, "" none.
        blocked: its memory did not answer, so the command line is not known.
        descriptors: open files, where the kernel says (6.2); else UNKNOWN.
        sockets: of them sockets, where they could be counted; else UNKNOWN.
        preload: environment variables that load foreign code, as NAME=VALUE; only root may see.
    """

    pid: int
    start_ticks: int
    comm: str
    ppid: int
    uid: int
    euid: int
    capabilities: int = 0
    tracer_pid: int = 0
    command: str = ""
    exe: str = ""
    unit: str = ""
    loose_folder: str = ""
    blocked: bool = False
    descriptors: int = UNKNOWN
    sockets: int = UNKNOWN
    preload: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[int, int]:
        """Names this one process for ever."""
        return self.pid, self.start_ticks

    @property
    def arguments(self) -> list[str]:
        """The command line's words."""
        return self.command.split("\0") if self.command else []

    @property
    def program(self) -> str:
        """What it runs: the kernel's word, else its own."""
        return self.exe or (self.arguments[0] if self.command else "") or self.comm

    def as_map(self) -> dict[str, Plain]:
        """The OCSF process object."""
        out: dict[str, Plain] = {
            "pid": self.pid,
            "start_ticks": self.start_ticks,
            "name": self.comm,
            "parent_pid": self.ppid,
            "uid": self.uid,
        }
        if self.euid not in (self.uid, UNKNOWN):
            out["euid"] = self.euid
        if self.command:
            out["cmd_line"] = self.command.replace("\0", " ")
        if self.exe:
            out["path"] = self.exe
        if self.unit:
            out["unit"] = self.unit
        return out


@dataclass(frozen=True, slots=True)
class Delta:
    """What one look at the processes found.

    Attributes:
        now_ns: CLOCK_BOOTTIME.
        baseline: the first look: what began was there before us.
        began: new processes, and ones that became another program; also such as have ended since.
        changed: (before, after): same process, other user or tracer, or more known of it.
        ended: gone.
        present: pid -> process, all of them, after the look. Not to be changed.
    """

    now_ns: int
    baseline: bool
    began: tuple[Process, ...]
    changed: tuple[tuple[Process, Process], ...]
    ended: tuple[Process, ...]
    present: Mapping[int, Process]


@dataclass(frozen=True, slots=True, order=True)
class Listener:
    """Somebody waits for others to speak to him.

    Attributes:
        protocol: tcp or udp.
        address: as inet_ntop writes it; 0.0.0.0 or :: for every interface.
        port: 1 to 65535.
        uid: owner of the socket.
        inode: names the socket.
    """

    protocol: str
    address: str
    port: int
    uid: int
    inode: int

    def as_map(self) -> dict[str, Plain]:
        """OCSF network_endpoint with its protocol."""
        return {
            "protocol": self.protocol,
            "ip": self.address,
            "port": self.port,
            "owner_uid": self.uid,
        }

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.protocol} {host}:{self.port}"
