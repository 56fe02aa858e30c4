"""What this machine can do, each found out by doing it once, never by a version number.

A listed feature is not a working feature (an LSM can be listed and refuse to load), so every probe
really tries.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import platform
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

# <linux/fanotify.h>
FAN_CLOEXEC, FAN_NONBLOCK, FAN_CLASS_CONTENT = 0x1, 0x2, 0x4
FAN_MARK_ADD, FAN_MARK_FILESYSTEM = 0x1, 0x100
FAN_OPEN_EXEC_PERM = 0x40000
AT_FDCWD = -100  # <fcntl.h>
NETLINK_CONNECTOR = 11  # <linux/netlink.h>
CN_IDX_PROC = 1  # <linux/connector.h>
# <linux/bpf.h>, <asm/unistd.h>
BPF_PROG_LOAD, BPF_RAW_TRACEPOINT_OPEN, BPF_PROG_TYPE_RAW_TRACEPOINT = 5, 17, 17
NR_BPF = {"x86_64": 321, "aarch64": 280}


def skip_missing(feature: str) -> NoReturn:
    """Skip the test and say what is missing, in the one form that tests/ledger.py reads."""
    pytest.skip(f"missing: {feature}")


@functools.cache
def present(feature: str) -> bool:
    """Whether the feature works here.

    Raises:
        KeyError: no such feature; add a probe to PROBES.
    """
    return PROBES[feature]()


def _root() -> bool:
    return os.geteuid() == 0


def _fanotify_permission() -> bool:
    """A permission mark on a tmpfs of our own that nobody else uses."""
    if not _root():
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    where = tempfile.mkdtemp(prefix="ew-probe-")
    group = -1
    try:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "ew-probe", where]
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            return False
        group = libc.fanotify_init(FAN_CLOEXEC | FAN_NONBLOCK | FAN_CLASS_CONTENT, os.O_RDONLY)
        if group < 0:
            return False
        flags = ctypes.c_uint(FAN_MARK_ADD | FAN_MARK_FILESYSTEM)
        mask = ctypes.c_uint64(FAN_OPEN_EXEC_PERM)
        return bool(libc.fanotify_mark(group, flags, mask, AT_FDCWD, where.encode()) == 0)
    finally:
        if group >= 0:
            os.close(group)
        subprocess.run(["umount", where], capture_output=True, check=False)
        os.rmdir(where)


def _bpf_tracepoint() -> bool:
    """A raw tracepoint program that does nothing, loaded and attached; and Debian's libbpf."""
    if not _root() or platform.machine() not in NR_BPF:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    nothing = ctypes.create_string_buffer(struct.pack("=BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0))
    licence = ctypes.create_string_buffer(b"Dual MIT/GPL")
    name = ctypes.create_string_buffer(b"sched_process_exec")

    def bpf(command: int, attributes: bytes) -> int:
        room = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
        return int(libc.syscall(NR_BPF[platform.machine()], command, room, 128))

    kind, address = BPF_PROG_TYPE_RAW_TRACEPOINT, ctypes.addressof
    load = struct.pack("=IIQQ", kind, 2, address(nothing), address(licence))
    program = bpf(BPF_PROG_LOAD, load)
    if program < 0:
        return False
    link = bpf(BPF_RAW_TRACEPOINT_OPEN, struct.pack("=QI", address(name), program))
    for fd in (program, link):
        if fd >= 0:
            os.close(fd)
    try:
        ctypes.CDLL("libbpf.so.1")
    except OSError:
        return False
    return link >= 0


def _fuse() -> bool:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError:
        return False
    return _root()


def _proc_connector() -> bool:
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_CONNECTOR) as s:
            s.bind((0, CN_IDX_PROC))
    except OSError:
        return False
    return True


def _loop_mount() -> bool:
    return _root() and Path("/dev/loop-control").exists() and shutil.which("mkfs.ext4") is not None


def cgroup2_root() -> Path:
    """Where the unified hierarchy is mounted.

    Raises:
        FileNotFoundError: nowhere.
    """
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise FileNotFoundError("cgroup2")


def _cgroup2() -> bool:
    """A cgroup of our own in the unified hierarchy."""
    try:
        made = cgroup2_root() / f"ew-probe-{os.getpid()}"
        made.mkdir()
        made.rmdir()
    except OSError:
        return False
    return True


def _pidfd_info() -> bool:
    """PIDFD_GET_INFO of <linux/pidfd.h>, 64 bytes."""
    pidfd = os.pidfd_open(os.getpid())
    try:
        fcntl.ioctl(pidfd, 0xC040FF0B, bytearray(struct.pack("=Q56x", 7)))
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def _nspawn() -> bool:
    """systemd-nspawn, and a cgroup2 hierarchy to give the guest."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return _program("systemd-nspawn")() and any(mount[2] == "cgroup2" for mount in mounts)


def _debian_tree() -> bool:
    """Debian 13, from the trees that deploy/deb/tree.sh keeps or from the mirror it would ask."""
    kept = Path(__file__).parents[1] / ".cache"
    if all((kept / f"trixie-{name}.made-from").exists() for name in ("build", "boot")):
        return True
    line = ["apt-get", "indextargets", "--format", "$(SITE)", "Identifier: Packages"]
    try:
        sites = subprocess.run(line, capture_output=True, text=True, check=False).stdout.split()
        site = next(s for s in sites if s.endswith("/debian"))
        with urllib.request.urlopen(f"{site}/dists/trixie/InRelease", timeout=15) as answer:
            return answer.status == 200
    except (OSError, StopIteration):
        return False


def _unshare_net() -> bool:
    done = subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False)
    return done.returncode == 0


def _net_namespaces() -> bool:
    """Named ones, and a wire between two."""
    name = f"ewprobe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    if made.returncode != 0:
        return False
    try:
        link = ["ip", "-n", name, "link", "add", "up0", "type", "veth", "peer", "name", "gw0"]
        return subprocess.run(link, capture_output=True, check=False).returncode == 0
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _mdwe() -> bool:
    """PR_SET_MDWE (kernel 6.3), tried in a process of its own: it cannot be taken back."""
    script = "import ctypes, sys; sys.exit(ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) != 0)"
    return subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def _tpm_binding() -> bool:
    """tpm2-pytss in this environment (requirements/tpm.sh), and libraries that it loads."""
    done = subprocess.run(
        [sys.executable, "-c", "import tpm2_pytss"], capture_output=True, check=False
    )
    return done.returncode == 0


def _debian_tpm_binding() -> bool:
    done = subprocess.run(
        ["/usr/bin/python3", "-c", "import tpm2_pytss"], capture_output=True, check=False
    )
    return done.returncode == 0


def _keylime() -> bool:
    """keylime's TPM code in .venv-peers; it is read there, never imported by ours."""
    python = Path(__file__).parents[1] / ".venv-peers/bin/python"
    if not python.exists():
        return False
    line = [python, "-c", "import keylime.tpm.tpm_util"]
    return subprocess.run(line, capture_output=True, check=False).returncode == 0


def _peers_protobuf() -> bool:
    """Google's protobuf in .venv-peers; it reads what ours wrote."""
    python = Path(__file__).parents[1] / ".venv-peers/bin/python"
    if not python.exists():
        return False
    line = [python, "-c", "import google.protobuf"]
    return subprocess.run(line, capture_output=True, check=False).returncode == 0


def _tpm_provider() -> bool:
    """OpenSSL's tpm2 provider where OpenSSL looks; without a TPM it does not load to be asked."""
    if shutil.which("openssl") is None:
        return False
    done = subprocess.run(["openssl", "version", "-m"], capture_output=True, text=True, check=False)
    return Path(done.stdout.partition('"')[2].rstrip('"\n'), "tpm2.so").exists()


def _program(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name, path=f"{os.defpath}:/usr/sbin:/sbin") is not None


PROBES: dict[str, Callable[[], bool]] = {
    "root": _root,
    "fanotify-permission": _fanotify_permission,
    "proc-connector": _proc_connector,
    "bpf-tracepoint": _bpf_tracepoint,
    "gcc": _program("gcc"),
    "perl": _program("perl"),
    "clang-14": _program("clang-14"),
    "dpkg": _program("dpkg-deb"),
    "loop-mount": _loop_mount,
    "fuse": _fuse,
    "cgroup2": _cgroup2,
    "pidfd-info": _pidfd_info,
    "nspawn": _nspawn,
    "debian-tree": _debian_tree,
    "unshare-net": _unshare_net,
    "mdwe": _mdwe,
    "memfd-noexec": Path("/proc/sys/vm/memfd_noexec").exists,
    "pycose": (Path(__file__).parents[1] / ".venv-peers/bin/python").exists,
    "no-gpio": lambda: not any(Path("/dev").glob("gpiochip*")),
    "haproxy": _program("haproxy"),
    "microsocks": _program("microsocks"),
    "mosquitto": _program("mosquitto"),
    "nats-server": _program("nats-server"),
    "promtool": _program("promtool"),
    "mosquitto_sub": _program("mosquitto_sub"),
    "mosquitto_pub": _program("mosquitto_pub"),
    "curl": _program("curl"),
    "tinyproxy": _program("tinyproxy"),
    "openssl": _program("openssl"),
    "systemd-analyze": _program("systemd-analyze"),
    "nft": _program("nft"),
    "net-namespaces": _net_namespaces,
    "ssh": _program("ssh-keygen"),
    "strace": _program("strace"),
    "socat": _program("socat"),
    "libmodbus": Path("/usr/include/modbus/modbus.h").exists,
    "gpsd": lambda: all(_program(name)() for name in ("gpsd", "gpsfake", "gpspipe")),
    "piuparts": _program("piuparts"),
    "faketime": _program("faketime"),
    "cfssl": _program("cfssl"),
    "swtpm": lambda: all(_program(name)() for name in ("swtpm", "swtpm_setup", "certtool")),
    "tpm2-abrmd": lambda: all(
        _program(name)() for name in ("tpm2-abrmd", "dbus-daemon", "dbus-send")
    ),
    "tpm2-tools": _program("tpm2_quote"),
    "tpm2-pytss": _tpm_binding,
    "python3-tpm2-pytss": _debian_tpm_binding,
    "tpm2-openssl": _tpm_provider,
    "keylime": _keylime,
    "peers-protobuf": _peers_protobuf,
}
