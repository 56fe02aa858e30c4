"""The facts that confinement is planned from: units as systemd has them loaded, their processes as
/proc shows them, mounts, sysctls, and who needs what a sysctl would take away.

Nothing is changed and nothing but root's own files is believed to say what may run. What cannot be
read is left out, and the plan is then the narrower one. Files are read under ``root``: ``/``, or a
recorded tree in tests.

    look = Look(Systemctl()); look.service("mosquitto.service").programs
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from edgewarden.confine.facts import Host, Mount, Service
from edgewarden.confine.plan import DROPIN, KNOBS, USERNS
from edgewarden.confine.service import FOLDERS, PATHS, directives
from edgewarden.ports import Systemd
from edgewarden.probe.programs import loose, needs

EXECS = ("ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost", "ExecReload", "ExecStop",
         "ExecStopPost")  # fmt: skip
LIVE = (*PATHS, *FOLDERS, "NoExecPaths", "ExecPaths", "NoNewPrivileges", "MemoryDenyWriteExecute",
        "RestrictNamespaces", "SystemCallFilter", "DevicePolicy", "DeviceAllow", "IPAddressDeny",
        "IPAddressAllow")  # fmt: skip
UNIT = ("LoadState", "ActiveState", "FragmentPath", "DropInPaths", "ControlGroup", "MainPID",
        "NeedDaemonReload", "User")  # fmt: skip
MAX_BYTES = 1 << 20
_STARTED = re.compile(r"path=([^ ;]+) ;")
_JIT = re.compile(
    r"(java|node|nodejs|deno|bun|dotnet|mono|mono-sgen|luajit|openresty|julia|pypy3?|beam\.smp|php.*"
    r"|postgres|qemu-.*|chromium|firefox.*)"
)
_JIT_LIBRARY = re.compile(r"lib(jvm|node|coreclr|mono|luajit|v8|mozjs|LLVM)[-.\d]")
_PSEUDO = re.compile(r"/dev/(null|zero|full|u?random|tty|ptmx|console|pts/.*|shm/.*|log|kmsg)")
_SANDBOXES = ("podman", "buildah", "bwrap", "flatpak", "chromium", "rootlesskit", "lxc-start")
_RUNTIMES = ("runc", "crun", "dockerd", "containerd", "podman")
_NAMESPACES = ("user", "mnt", "pid", "net")


class Look:
    """See the module. Blocks; not for two threads.

    Args:
        methods: mount point -> how this program made it noexec before.
        before: sysctl -> value before this program changed it.
    """

    def __init__(
        self,
        systemd: Systemd,
        root: Path = Path("/"),
        *,
        methods: Mapping[str, str] | None = None,
        before: Mapping[str, str] | None = None,
    ) -> None:
        self._systemd = systemd
        self._root = root
        self._methods = dict(methods or {})
        self._before = dict(before or {})

    # --- services --------------------------------------------------------------------------------

    def service(self, unit: str) -> Service:
        """One unit and its processes.

        Raises:
            HardwareFault: EW-EXEC-040.
        """
        shown = self._systemd.show([unit], (*UNIT, *EXECS, *LIVE))[unit]
        started = [path for name in EXECS for path in _STARTED.findall(shown.get(name, ""))]
        found = [needs(path, self._root) for path in dict.fromkeys(started)]
        pids = self._pids(shown.get("ControlGroup", ""))
        running = self._running(pids)
        maps = [self._text(f"proc/{pid}/maps") for pid in pids]
        programs = _ordered(path for one in found for path in one.programs)
        libraries = _ordered([*(d for one in found for d in one.libraries), *_folders(maps)])
        behind = [needs(path, self._root) for path in running if path not in programs]
        libraries = _ordered([*libraries, *(d for one in behind for d in one.libraries)])
        running = _ordered([*running, *(p for one in behind for p in one.programs)])
        return Service(
            unit,
            loaded=shown.get("LoadState") == "loaded",
            active=shown.get("ActiveState") in ("active", "activating", "reloading"),
            own=self._own(shown),
            live={name: shown.get(name, "") for name in LIVE},
            programs=programs,
            missing=tuple(p for p, one in zip(dict.fromkeys(started), found, strict=True)
                          if not one.programs),
            running=running,
            libraries=libraries,
            loose=loose((*programs, *running, *libraries), self._root),
            jit=_jit((*programs, *running), maps),
            namespaces=self._namespaces(pids),
            devices=self._devices(pids),
        )  # fmt: skip

    def runs_confined(self, unit: str) -> bool:
        """Whether its running process sees ``/`` as a place that runs nothing.

        Raises:
            HardwareFault: EW-EXEC-040.
        """
        pid = int(self._systemd.show([unit], ("MainPID",))[unit].get("MainPID") or 0)
        return bool(pid) and "noexec" in self.mounted(pid).get("/", ())

    def open_places(self, pid: int) -> tuple[str, ...]:
        """Folders that are not noexec for a process, by mount point."""
        root = self._root / f"proc/{pid}/root"
        found = [p for p, options in self.mounted(pid).items() if "noexec" not in options]
        return tuple(path for path in found if (root / path.lstrip("/")).is_dir())

    def _own(self, shown: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
        """The unit's directives as its files have them, without ours."""
        files = [shown.get("FragmentPath", ""), *shown.get("DropInPaths", "").split()]
        ours = [path for path in files if path and os.path.basename(path) != DROPIN]
        return directives(tuple(self._text(path.lstrip("/")) for path in ours))

    def _pids(self, group: str) -> list[int]:
        """Every process of a control group and those below it."""
        if not group.strip("/"):
            return []
        top = self._root / "sys/fs/cgroup"
        tops = [top / group.lstrip("/"), top / "systemd" / group.lstrip("/")]
        found = []
        for where in tops:
            for file in [where / "cgroup.procs", *sorted(where.rglob("*/cgroup.procs"))]:
                with contextlib.suppress(OSError, ValueError):
                    found += [int(word) for word in file.read_text().split()]
        return sorted(set(found))

    def _running(self, pids: Sequence[int]) -> tuple[str, ...]:
        """Programs of the processes; one that was replaced on the disk counts by its name."""
        links = (self._link(f"proc/{pid}/exe").removesuffix(" (deleted)") for pid in pids)
        return _ordered(link for link in links if link.startswith("/"))

    def _namespaces(self, pids: Sequence[int]) -> str:
        for kind in _NAMESPACES:
            found = {self._link(f"proc/{pid}/ns/{kind}") for pid in pids} - {""}
            if len(found) > 1:
                return f"its processes are in {len(found)} {kind} namespaces"
        return ""

    def _devices(self, pids: Sequence[int]) -> tuple[str, ...]:
        found = set()
        for pid in pids:
            for link in self._open_files(pid):
                if link.startswith("/dev/") and not _PSEUDO.fullmatch(link):
                    found.add(link)
        return tuple(sorted(found))

    # --- places ----------------------------------------------------------------------------------

    def mount(self, path: str) -> Mount:
        """One place: mounted or not, with which options, by which unit.

        Raises:
            HardwareFault: EW-EXEC-040.
        """
        where = self._root / path.lstrip("/")
        options = self.mounted().get(path)
        if not where.is_dir() or options is None:
            method = self._methods.get(path, "")
            return Mount(path, where.is_dir(), method=method)
        unit = mount_unit(path)
        shown = self._systemd.show([unit], ("LoadState", "FragmentPath", "DropInPaths"))[unit]
        has_file = shown.get("LoadState") == "loaded" and bool(shown.get("FragmentPath"))
        own = self._own(shown).get("Options", ())
        return Mount(
            path, True, True, options,
            unit=unit if has_file else "",
            unit_options=own[-1] if own else "",
            method=self._methods.get(path, ""),
        )  # fmt: skip

    def mounted(self, pid: int = 1) -> dict[str, tuple[str, ...]]:
        """Mount point -> options of what is mounted there last, as a process sees it."""
        found: dict[str, tuple[str, ...]] = {}
        for line in self._text(f"proc/{pid}/mountinfo").splitlines():
            words = line.split(" ")
            if len(words) > 6:
                point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), words[4])
                found[point] = tuple(words[5].split(","))
        return found

    # --- the machine -----------------------------------------------------------------------------

    def host(self) -> Host:
        """Kernel, systemd, sysctls and who needs them.

        Raises:
            HardwareFault: EW-EXEC-040.
        """
        version = self._systemd.show([""], ("Version",))[""].get("Version", "")
        release = re.match(r"(\d+)\.(\d+)", self._text("proc/sys/kernel/osrelease"))
        names = (*(knob.name for knob in KNOBS), *(knob.name for knob in USERNS))
        values = {name: self.sysctl(name) for name in names}
        return Host(
            (int(release[1]), int(release[2])) if release else (0, 0),
            int((re.match(r"\d+", version) or ["0"])[0]),
            bpf=(self._root / "sys/fs/cgroup/cgroup.controllers").exists(),
            sysctls={name: value for name, value in values.items() if value},
            before=self._before,
            locked=self._locked(),
            userns=(*self._installed(_SANDBOXES), *self._in_namespaces(), *self._private_users()),
            memfd=self._installed(_RUNTIMES),
            io_uring=self._holding("anon_inode:[io_uring]"),
        )

    def sysctl(self, name: str) -> str:
        """A sysctl's value; "" where it does not exist."""
        return self._text(f"proc/sys/{name.replace('.', '/')}").strip()

    def boot_id(self) -> str:
        """Of this boot."""
        return self._text("proc/sys/kernel/random/boot_id").strip()

    def _locked(self) -> str:
        table = self.mounted(os.getpid()) if self._root == Path("/") else self.mounted()
        for point in ("/proc/sys", "/proc"):
            if point in table:
                read_only = "ro" in table[point]
                return f"{point} is read-only (a container)" if read_only else ""
        return ""

    def _installed(self, names: Sequence[str]) -> tuple[str, ...]:
        folders = ("usr/bin", "usr/sbin", "usr/local/bin", "usr/libexec", "usr/lib/chromium")
        there = (n for n in names if any((self._root / d / n).exists() for d in folders))
        return tuple(f"{name} (installed)" for name in there)

    def _in_namespaces(self) -> tuple[str, ...]:
        first = self._link("proc/1/ns/user")
        inside = [p for p in self._all() if self._link(f"proc/{p}/ns/user") not in ("", first)]
        return _ordered(self._text(f"proc/{pid}/comm").strip() for pid in inside)

    def _private_users(self) -> tuple[str, ...]:
        shown = self._systemd.show(["*.service"], ("Id", "PrivateUsers"))["*.service"]
        names, values = (shown.get(key, "").split("\n") for key in ("Id", "PrivateUsers"))
        pairs = zip(names, values, strict=False)
        return tuple(name for name, value in pairs if value not in ("", "no"))

    def _holding(self, what: str) -> tuple[str, ...]:
        pids = [pid for pid in self._all() if what in self._open_files(pid)]
        return _ordered(self._text(f"proc/{pid}/comm").strip() for pid in pids)

    # --- reading ---------------------------------------------------------------------------------

    def _all(self) -> list[int]:
        return sorted(int(p.name) for p in (self._root / "proc").iterdir() if p.name.isdecimal())

    def _open_files(self, pid: int) -> list[str]:
        where = self._root / f"proc/{pid}/fd"
        found = []
        with contextlib.suppress(OSError):
            for name in os.listdir(where):
                found.append(self._link(f"proc/{pid}/fd/{name}"))
        return found

    def _link(self, inside: str) -> str:
        try:
            return os.readlink(self._root / inside)
        except OSError:
            return ""

    def _text(self, inside: str) -> str:
        try:
            with (self._root / inside).open("rb") as file:
                return file.read(MAX_BYTES).decode("utf-8", "replace")
        except OSError:
            return ""


def mount_unit(path: str) -> str:
    """The name of a path's mount unit (systemd.unit(5), "String Escaping for Inclusion")."""

    def escape(at: int, byte: int) -> str:
        char = chr(byte)
        if char == "/":
            return "-"
        plain = char.isascii() and (char.isalnum() or char in ":_" or (char == "." and at))
        return char if plain else f"\\x{byte:02x}"

    body = path.strip("/").encode()
    return (
        "".join(escape(at, byte) for at, byte in enumerate(body)) + ".mount" if body else "-.mount"
    )


def _ordered(paths: Sequence[str] | Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(path for path in paths if path))


def _folders(maps: Sequence[str]) -> list[str]:
    """Folders of what the processes have mapped as code."""
    found = []
    for text in maps:
        for line in text.splitlines():
            words = line.split(None, 5)
            if len(words) == 6 and "x" in words[1] and words[5].startswith("/"):
                path = words[5].removesuffix(" (deleted)")
                if re.search(r"\.so(\.|$)", os.path.basename(path)):
                    found.append(os.path.dirname(path))
    return list(dict.fromkeys(found))


def _jit(programs: Sequence[str], maps: Sequence[str]) -> str:
    for path in programs:
        if _JIT.fullmatch(os.path.basename(path)):
            return f"{os.path.basename(path)} makes code at run time"
    for text in maps:
        for line in text.splitlines():
            words = line.split(None, 5)
            if len(words) > 1 and words[1].startswith("rwx"):
                return "it has memory that is writable and executable"
            if len(words) == 6 and _JIT_LIBRARY.search(os.path.basename(words[5])):
                return f"it maps {os.path.basename(words[5])}"
    return ""
