"""Where root's ssh server listens: by who holds the socket, or by the unit it was opened for."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from edgewarden.errors import HardwareFault
from edgewarden.kernel.sockdiag import TCP_LISTEN, open_diag
from edgewarden.network.logins import AGAIN_S, Logins


class World:
    """Listening sockets, and processes that hold them."""

    def __init__(self) -> None:
        self.sockets: list[tuple[tuple[str, int, int, int], int]] = []
        self.processes: dict[int, tuple[str, int, list[int]]] = {}
        self.now = 0.0
        self.walks = 0
        self.broken = False

    def dump_with_groups(
        self, family: int, protocol: int, states: int
    ) -> list[tuple[tuple[str, int, int, int], int]]:
        if self.broken:
            raise HardwareFault("EPERM", code="EW-EXEC-020", next_step="-", name="x")
        return [s for s in self.sockets if (":" in s[0][0]) == (family == socket.AF_INET6)]

    def proc_list(self, name: str) -> list[str]:
        if name == ".":
            self.walks += 1
            return ["self", "net", *map(str, self.processes)]
        return [str(i) for i in range(len(self.processes[int(name.split("/")[0])][2]))]

    def proc_link(self, name: str) -> bytes:
        pid, kind, *fd = name.split("/")
        exe, _, inodes = self.processes[int(pid)]
        return exe.encode() if kind == "exe" else f"socket:[{inodes[int(fd[0])]}]".encode()

    def owner_of(self, pid: int) -> int:
        return self.processes[pid][1]

    def listens(self, port: int, inode: int, *, address: str = "0.0.0.0", uid: int = 0,
                group: int = 0) -> None:  # fmt: skip
        self.sockets.append(((address, port, uid, inode), group))


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def logins(world: World, tmp_path: Path) -> Logins:
    (tmp_path / "cgroup.controllers").touch()
    (tmp_path / "system.slice/ssh.socket").mkdir(parents=True)
    return Logins(world, world, lambda: world.now, str(tmp_path))


@pytest.mark.parametrize(
    ("exe", "address"),
    [("/usr/sbin/sshd", "0.0.0.0"), ("/usr/sbin/sshd", "::"), ("/usr/sbin/dropbear", "10.0.0.1"),
     ("/usr/sbin/sshd (deleted)", "0.0.0.0")],
)  # fmt: skip
def test_a_server_of_roots_is_a_way_in_at_any_port(
    world: World, logins: Logins, exe: str, address: str
) -> None:
    world.listens(2222, 7, address=address)
    world.processes[30] = (exe, 0, [5, 7])
    assert logins.now() == {2222}


@pytest.mark.parametrize(
    ("exe", "owner", "address", "uid"),
    [("/tmp/sshd", 0, "0.0.0.0", 0), ("/usr/sbin/sshd", 1000, "0.0.0.0", 0),
     ("/usr/sbin/sshd", 0, "0.0.0.0", 1000), ("/usr/sbin/sshd", 0, "127.0.0.1", 0),
     ("/usr/sbin/sshd", 0, "::1", 0), ("/usr/sbin/nginx", 0, "0.0.0.0", 0)],
)  # fmt: skip
def test_nobody_else_makes_a_way_in(
    world: World, logins: Logins, exe: str, owner: int, address: str, uid: int
) -> None:
    world.listens(2222, 7, address=address, uid=uid)
    world.processes[30] = (exe, owner, [7])
    assert logins.now() == frozenset()


def test_a_socket_that_systemd_opened_is_known_by_its_group(
    world: World, logins: Logins, tmp_path: Path
) -> None:
    world.listens(22, 8, group=(tmp_path / "system.slice/ssh.socket").stat().st_ino)
    world.listens(80, 9, group=5)
    assert logins.now() == {22}


def test_only_a_new_listener_makes_us_look_through_the_processes(
    world: World, logins: Logins
) -> None:
    world.listens(22, 7)
    world.listens(80, 8)
    world.processes = {30: ("/usr/sbin/sshd", 0, [7]), 31: ("/usr/sbin/nginx", 0, [8])}
    assert logins.now() == {22}
    assert logins.now() == {22}
    assert world.walks == 1
    world.listens(2222, 9)
    world.processes[32] = ("/usr/sbin/dropbear", 0, [9])
    assert logins.now() == {22, 2222}
    assert world.walks == 2
    world.sockets = world.sockets[1:]
    assert logins.now() == {2222}
    world.processes[1] = ("/usr/sbin/sshd", 0, [8])  # systemd handed it over
    world.now += AGAIN_S
    assert logins.now() == {80, 2222}


def test_a_kernel_that_does_not_say_is_no_way_in_and_told(world: World, logins: Logins) -> None:
    world.broken = True
    assert logins.now() == frozenset()
    assert logins.why_not == "EPERM"
    world.broken = False
    logins.now()
    assert logins.why_not == ""


def test_a_kernel_that_does_not_say_for_once_takes_no_way_in_away(
    world: World, logins: Logins
) -> None:
    world.listens(2222, 7)
    world.processes = {30: ("/usr/sbin/sshd", 0, [7])}
    assert logins.now() == {2222}
    world.broken = True
    assert logins.now() == {2222}
    assert logins.why_not == "EPERM"
    world.broken = False
    world.sockets.clear()
    assert logins.now() == frozenset()


def test_the_kernel_names_the_group_that_a_socket_was_made_in() -> None:
    diag = open_diag()
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            inode = os.fstat(listener.fileno()).st_ino
            found = diag.dump_with_groups(socket.AF_INET, socket.IPPROTO_TCP, 1 << TCP_LISTEN)
            [group] = [group for one, group in found if one[3] == inode]
            assert group > 0
    finally:
        diag.close()
