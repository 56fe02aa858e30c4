"""The facts of confinement, read from a recorded tree; and what a canary's words mean."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from edgewarden.confine.facts import Service, ServicePlan
from edgewarden.probe.confine_verify import judge_canary
from edgewarden.probe.confinement import Look, mount_unit
from edgewarden.probe.programs import interpreter, loose, needs, resolve
from tests.fakes.systemd import FakeSystemd

LOADER = "/lib/ld-linux-aarch64.so.1"
LIBS = "/usr/lib/aarch64-linux-gnu"


def elf(loader: str = LOADER, *, wide: bool = True) -> bytes:
    """The head of an ELF program with one PT_INTERP; "" for a static one."""
    name = loader.encode() + b"\0"
    if wide:
        head = (
            b"\x7fELF\x02\x01" + bytes(26) + struct.pack("<QQIHHHHHH", 64, 0, 0, 64, 56, 1, 0, 0, 0)
        )
        part = struct.pack("<IIQQQQQQ", 3 if loader else 1, 4, 120, 0, 0, len(name), len(name), 1)
    else:
        head = (
            b"\x7fELF\x01\x01" + bytes(22) + struct.pack("<IIIHHHHHH", 52, 0, 0, 52, 32, 1, 0, 0, 0)
        )
        part = struct.pack("<IIIIIIII", 3, 84, 0, 0, len(name), len(name), 4, 1)
    return head + part + name


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A merged-/usr Debian with a broker, Python and a script."""
    for folder in ("usr/bin", "usr/sbin", LIBS[1:], "usr/lib/python3", "usr/lib/python3.13", "etc",
                   "proc/self", "proc/sys/kernel", "sys/fs/cgroup/system.slice/broker.service",
                   "tmp", "var/tmp"):  # fmt: skip
        (tmp_path / folder).mkdir(parents=True)
    for link in ("bin", "sbin", "lib"):
        (tmp_path / link).symlink_to(f"usr/{link}")
    (tmp_path / "usr/lib/ld-linux-aarch64.so.1").symlink_to(
        "aarch64-linux-gnu/ld-linux-aarch64.so.1"
    )
    for program in ("usr/sbin/broker", "usr/bin/python3.13", "usr/bin/env", "usr/bin/dash",
                    f"{LIBS[1:]}/ld-linux-aarch64.so.1"):  # fmt: skip
        (tmp_path / program).write_bytes(elf() if "ld-linux" not in program else elf(""))
    (tmp_path / "usr/bin/python3").symlink_to("python3.13")
    (tmp_path / "usr/bin/sh").symlink_to("dash")
    (tmp_path / "usr/bin/tool").write_text("#!/usr/bin/env -S python3 -I\nprint()\n")
    return tmp_path


# --- programs ------------------------------------------------------------------------------------


def test_a_program_needs_its_loader_and_the_folder_of_its_libraries(root: Path) -> None:
    found = needs("/sbin/broker", root)
    assert found.programs == ("/usr/sbin/broker", f"{LIBS}/ld-linux-aarch64.so.1")
    assert found.libraries == (LIBS,)
    assert found.loader == f"{LIBS}/ld-linux-aarch64.so.1"


def test_a_script_needs_what_its_first_line_names(root: Path) -> None:
    found = needs("/usr/bin/tool", root)
    assert found.programs[:3] == ("/usr/bin/tool", "/usr/bin/env", "/usr/bin/python3.13")
    assert set(found.libraries) == {LIBS, "/usr/lib/python3", "/usr/lib/python3.13"}


def test_a_name_without_a_path_is_looked_for(root: Path) -> None:
    assert resolve("sh", root) == "/usr/bin/dash"
    assert resolve("/nowhere", root) == ""
    assert needs("/nowhere", root).programs == ()


def test_a_link_out_of_the_tree_stays_inside(root: Path) -> None:
    (root / "usr/bin/away").symlink_to("../../../../../../../../usr/bin/dash")
    assert resolve("/usr/bin/away", root) == "/usr/bin/dash"


@pytest.mark.parametrize("wide", [True, False])
def test_the_loader_of_both_word_sizes_is_found(wide: bool) -> None:
    assert interpreter(elf("/lib/ld.so", wide=wide)) == "/lib/ld.so"


@pytest.mark.parametrize("cut", range(0, 132, 7))
def test_a_cut_program_has_no_loader_and_harms_nobody(cut: int) -> None:
    assert interpreter(elf()[:cut]) in ("", LOADER[: max(0, cut - 120)])


def test_what_others_may_write_is_found(root: Path) -> None:
    (root / "usr/bin/dash").chmod(0o775)
    assert "/usr/bin/dash" in loose(("/usr/bin/dash", "/nowhere"), root)


# --- services ------------------------------------------------------------------------------------


@pytest.fixture
def broker(root: Path) -> FakeSystemd:
    """A running broker whose unit, drop-ins and process are recorded."""
    unit, ours = root / "etc/broker.service", root / "etc/50-edgewarden.conf"
    unit.write_text("[Service]\nExecStart=/sbin/broker\nDevicePolicy=auto\n")
    ours.write_text("[Service]\nNoExecPaths=/\nDevicePolicy=closed\n")
    (root / "sys/fs/cgroup/system.slice/broker.service/cgroup.procs").write_text("7\n8\n")
    for pid, perms in ((7, "r-xp"), (8, "r-xp")):
        where = root / f"proc/{pid}"
        (where / "fd").mkdir(parents=True)
        (where / "ns").mkdir()
        (where / "exe").symlink_to("/usr/sbin/broker (deleted)" if pid == 8 else "/usr/sbin/broker")
        (where / "comm").write_text("broker\n")
        (where / "ns/user").symlink_to("user:[1]")
        (where / "fd/3").symlink_to("/dev/ttyUSB0")
        (where / "fd/4").symlink_to("/dev/null")
        (where / "maps").write_text(
            f"7f00-7f01 {perms} 00000000 08:01 5 {LIBS}/libc.so.6\n"
            f"7f02-7f03 r--p 00000000 08:01 6 /srv/data/blob.so\n"
            f"7f04-7f05 r-xp 00000000 08:01 7 /opt/broker/plugins/auth.so.2\n"
        )
    return FakeSystemd(
        {
            "broker.service": {
                "LoadState": "loaded",
                "ActiveState": "active",
                "FragmentPath": "/etc/broker.service",
                "DropInPaths": "/etc/50-edgewarden.conf",
                "ControlGroup": "/system.slice/broker.service",
                "ExecStart": "{ path=/sbin/broker ; argv[]=/sbin/broker ; ignore_errors=no }",
                "ExecReload": "{ path=/bin/gone ; argv[]=/bin/gone ; ignore_errors=no }",
                "DevicePolicy": "closed",
            }
        }
    )


def test_a_service_is_known_by_its_unit_and_its_processes(root: Path, broker: FakeSystemd) -> None:
    found = Look(broker, root).service("broker.service")
    assert (found.loaded, found.active) == (True, True)
    assert found.own["DevicePolicy"] == ("auto",), "ours does not count"
    assert "NoExecPaths" not in found.own
    assert found.live["DevicePolicy"] == "closed"
    assert "/usr/sbin/broker" in found.programs
    assert found.missing == ("/bin/gone",)
    assert found.running[0] == "/usr/sbin/broker"
    assert set(found.libraries) == {LIBS, "/opt/broker/plugins"}
    assert found.devices == ("/dev/ttyUSB0",)
    assert (found.jit, found.namespaces) == ("", "")


def test_code_made_at_run_time_and_namespaces_are_seen(root: Path, broker: FakeSystemd) -> None:
    (root / "proc/7/maps").write_text("7f00-7f01 rwxp 00000000 00:00 0\n")
    (root / "proc/8/ns/user").unlink()
    (root / "proc/8/ns/user").symlink_to("user:[2]")
    found = Look(broker, root).service("broker.service")
    assert "writable and executable" in found.jit
    assert "2 user namespaces" in found.namespaces


def test_a_unit_that_is_not_there_is_not_loaded(root: Path) -> None:
    assert Look(FakeSystemd(), root).service("x.service").loaded is False


# --- places and the machine ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/tmp", "tmp.mount"),
        ("/var/tmp", "var-tmp.mount"),
        ("/", "-.mount"),
        ("/mnt/a-b", "mnt-a\\x2db.mount"),
        ("/.hidden/a.b", "\\x2ehidden-a.b.mount"),
    ],
)
def test_the_unit_of_a_mount_point(path: str, unit: str) -> None:
    assert mount_unit(path) == unit


def test_a_place_and_its_unit(root: Path) -> None:
    (root / "proc/1").mkdir()
    (root / "proc/1/mountinfo").write_text(
        "1 0 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"
        "2 1 0:2 / /tmp rw,nosuid - tmpfs tmpfs rw,size=1k\n"
        "3 1 0:3 / /with\\040space rw,noexec - tmpfs tmpfs rw\n"
    )
    (root / "etc/tmp.mount").write_text("[Mount]\nOptions=mode=1777,nosuid\n")
    systemd = FakeSystemd({"tmp.mount": {"LoadState": "loaded", "FragmentPath": "/etc/tmp.mount"}})
    look = Look(systemd, root, methods={"/tmp": "dropin"})
    assert look.mount("/tmp").options == ("rw", "nosuid")
    assert (look.mount("/tmp").unit, look.mount("/tmp").unit_options) == (
        "tmp.mount",
        "mode=1777,nosuid",
    )
    assert look.mount("/tmp").method == "dropin"
    assert look.mount("/var/tmp").mounted is False
    assert look.mount("/nowhere").exists is False
    assert look.mounted()["/with space"] == ("rw", "noexec")


def test_the_machine_and_who_needs_what(root: Path) -> None:
    (root / "proc/sys/kernel/osrelease").write_text("6.12.25+rpt-rpi-v8\n")
    (root / "proc/sys/vm").mkdir()
    (root / "proc/sys/vm/memfd_noexec").write_text("0\n")
    for pid, space in ((1, "user:[1]"), (9, "user:[2]")):
        (root / f"proc/{pid}/ns").mkdir(parents=True)
        (root / f"proc/{pid}/fd").mkdir()
        (root / f"proc/{pid}/ns/user").symlink_to(space)
        (root / f"proc/{pid}/comm").write_text("crab\n")
    (root / "proc/9/fd/3").symlink_to("anon_inode:[io_uring]")
    (root / "usr/bin/runc").touch()
    (root / "proc/1/mountinfo").write_text("1 0 0:4 / /proc/sys ro - proc proc rw\n")
    units = {"Id": "a.service\nb.service", "PrivateUsers": "no\nyes"}
    systemd = FakeSystemd({"": {"Version": "257 (257.7-1)"}, "*.service": units})
    host = Look(systemd, root, before={"vm.memfd_noexec": "0"}).host()
    assert (host.kernel, host.systemd, host.bpf) == ((6, 12), 257, False)
    assert host.sysctls == {"vm.memfd_noexec": "0"}
    assert host.userns == ("crab", "b.service")
    assert host.memfd == ("runc (installed)",)
    assert host.io_uring == ("crab",)
    assert "read-only" in host.locked


# --- what a canary's words mean ------------------------------------------------------------------

PLAN = ServicePlan(
    "broker.service",
    (
        ("NoExecPaths", "/"),
        ("ExecPaths", f"-{LIBS}"),
        ("BindReadOnlyPaths", f"-{LIBS}"),
        ("NoNewPrivileges", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        ("RestrictNamespaces", "yes"),
        ("SystemCallFilter", "~@mount:EPERM memfd_create:EPERM"),
    ),
)
HELD = {
    "exec": "EACCES",
    "script": "EACCES",
    "map": "EPERM",
    "loader": "exit 127",
    "list /usr/sbin/broker": "exit 0",
    "memory": "EPERM",
    "memfd": "EPERM",
    "write": "EROFS",
    "namespace": "EPERM",
    "privileges": "1",
    "places": f"{LIBS} {LIBS}/gconv /run/systemd/incoming",
}


def test_a_canary_that_was_refused_everything_is_proof() -> None:
    assert judge_canary(PLAN, HELD) == []


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        ("exec", "exit 0"),
        ("exec", "ENOENT"),
        ("script", "exit 0"),
        ("map", "mapped"),
        ("loader", "exit 0"),
        ("list /usr/sbin/broker", "exit 127"),
        ("memory", "mapped"),
        ("memfd", "exit 0"),
        ("write", "opened"),
        ("namespace", "made"),
        ("privileges", "0"),
        ("places", "/var/lib/broker"),
    ],
)
def test_each_attempt_that_went_through_is_named(attempt: str, said: str) -> None:
    """K3: a tier label is backed by a refusal; anything else the kernel said is none."""
    (fault,) = judge_canary(PLAN, {**HELD, attempt: said})
    named = f"{attempt}: the kernel said {said}"
    assert fault.startswith(named if attempt != "places" else f"programs run from {said}")


@pytest.mark.parametrize("attempt", ["exec", "map", "memory", "memfd"])
def test_an_attempt_that_was_not_made_is_no_proof(attempt: str) -> None:
    said = {name: word for name, word in HELD.items() if name != attempt}
    assert judge_canary(PLAN, said)[0].startswith(f"{attempt}: the kernel said nothing")


def test_facts_without_a_program_are_an_empty_service() -> None:
    assert Service("x.service").programs == ()
