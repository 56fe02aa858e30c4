"""A gateway and its peers in network namespaces of the test's own, joined by one wire.

    with net_world() as world:
        world.write(policy_text); world.start_gate(); world.mode("enforce")
        world.connect("tcp", "10.77.0.2", 9001, uid=12345)

The gateway is 10.77.0.1 and fd77::1; the peer has 10.77.0.2 to 10.77.0.9, fd77::2, fd77::3 and, for
floods, 10.100.0.0/14. This host's own rules are never touched: both namespaces are gone afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from edgewarden.exec.policy_files import write_policy
from edgewarden.judge.exec_table import compile_list
from edgewarden.peers.rules import compile_network
from edgewarden.peers.users import Users
from edgewarden.settings.policy import load_policy
from edgewarden.settings.schema import Network
from edgewarden.settings.source import SourceFile
from edgewarden.wire.gate_files import compile_gate_config
from edgewarden.wire.local import (
    FACTS,
    Alarm,
    Answer,
    AreaStats,
    NetworkVerdict,
    Request,
    encode,
    parse,
)
from tests.system.came_in import ask_from_a_new_login
from tests.system.exec_world import DAEMONS, PYTHON, World
from tests.waiting import wait_until

TOOLS = Path(__file__).with_name("net_tools.py")
GATEWAY, GATEWAY6 = "10.77.0.1", "fd77::1"
PEER, OTHER, PEER6, OTHER6 = "10.77.0.2", "10.77.0.3", "fd77::2", "fd77::3"
ALLOWED, DENIED = 9001, 9002
UID = 12345


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


class NetWorld(World):
    """See the module."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        token = secrets.token_hex(3)
        self.gateway, self.peer = f"ewg-{token}", f"ewp-{token}"
        self._servers: list[subprocess.Popen[str]] = []
        self.generation = 0

    # --- the wire ------------------------------------------------------------------------------

    def make(self) -> None:
        for name in (self.gateway, self.peer):
            _run("ip", "netns", "add", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
            self._set(name, "net/ipv6/conf/default/accept_dad", "0")
        _run(
            "ip", "-n", self.gateway, "link", "add", "up0", "type", "veth",
            "peer", "name", "gw0", "netns", self.peer,
        )  # fmt: skip
        for name, link, addresses in (
            (self.gateway, "up0", [f"{GATEWAY}/24", f"{GATEWAY6}/64"]),
            (self.peer, "gw0", [*(f"10.77.0.{i}/24" for i in range(2, 10)), f"{PEER6}/64",
                                f"{OTHER6}/64"]),
        ):  # fmt: skip
            self._set(name, f"net/ipv6/conf/{link}/accept_dad", "0")
            for address in addresses:
                _run("ip", "-n", name, "addr", "add", address, "dev", link)
            _run("ip", "-n", name, "link", "set", link, "up")
        _run("ip", "-n", self.gateway, "route", "add", "default", "via", PEER)
        _run("ip", "-n", self.peer, "route", "add", "local", "10.100.0.0/14", "dev", "lo")

    def _set(self, name: str, path: str, value: str) -> None:
        subprocess.run(
            self.inside(name, "sh", "-c", f"echo {value} > /proc/sys/{path}"), check=True
        )

    def gone(self) -> None:
        for server in self._servers:
            server.kill()
            server.wait(30)
            for pipe in (server.stdin, server.stdout):
                if pipe is not None:
                    pipe.close()
        for name in (self.gateway, self.peer):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def inside(self, name: str, *command: str, uid: int = 0) -> list[str]:
        """A command in a namespace, perhaps as another user."""
        user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
        return ["nsenter", f"--net=/run/netns/{name}", *user, *command]

    # --- the two sides -------------------------------------------------------------------------

    def tool(self, name: str, *arguments: object, uid: int = 0) -> list[str]:
        words = [str(argument) for argument in arguments]
        return self.inside(name, "/usr/bin/python3", "-S", str(TOOLS), *words, uid=uid)

    def serve(
        self, *addresses: str, ports: Sequence[int] = (ALLOWED, DENIED), where: str = ""
    ) -> None:
        """Accept, on the peer's side if nothing else is said, until the end."""
        command = self.tool(where or self.peer, "serve", *addresses, "--", *ports)
        made = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._servers.append(made)
        assert made.stdout is not None
        assert made.stdout.readline() == "ready\n"

    def connect_tries(
        self, kind: str, address: str, port: int, *, uid: int = UID, tries: int = 1, where: str = ""
    ) -> list[tuple[str, float]]:
        """What each try came to: errno's name or "", and milliseconds."""
        command = self.tool(where or self.gateway, "connect", kind, address, port, tries, uid=uid)
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return [(said, took) for said, took in json.loads(done.stdout)]

    def connect_says(
        self, kind: str, address: str, port: int, *, uid: int = UID, where: str = ""
    ) -> str:
        return self.connect_tries(kind, address, port, uid=uid, where=where)[0][0]

    def nft(self, *words: str) -> str:
        """The nft program, in the gateway's namespace."""
        done = subprocess.run(
            self.inside(self.gateway, "nft", *words), check=True, capture_output=True, text=True
        )
        return done.stdout

    # --- gate ----------------------------------------------------------------------------------

    def write(self, text: str, network: Network | None = None) -> None:
        """The policy, compiled as the one-shot does."""
        self.generation += 1
        config = compile_gate_config([], "learn", link_uid=0)
        write_policy(str(self.state), compile_list([]), config)
        self.write_network(text, network)

    def write_network(self, text: str, network: Network | None = None) -> None:
        """Only what gate knows of the network."""
        policy = load_policy(SourceFile("policy.toml", text))
        table = compile_network(
            policy, network or Network(), users=Users(lambda _: None), generation=self.generation
        )
        (self.state / "policy" / "network.table").write_bytes(table.dump())

    def start_gate(self, *, masked: str = "") -> None:
        (self.run / "gate.sock").unlink(missing_ok=True)
        command = [*PYTHON, str(DAEMONS / "gate.py"), str(self.state), str(self.run)]
        if masked:
            command = [sys.executable, masked, *command]
        self.gate_pid = self._start(self.inside(self.gateway, *command))
        self.control = self.connect("gate.sock")

    def mode(self, mode: str, confirm_s: int = 0) -> Answer:
        answer = self.request(Request("mode", mode, confirm_s, "network"))
        assert isinstance(answer, Answer)
        return answer

    def request(self, request: Request) -> Answer | AreaStats:
        assert self.control is not None
        self.control.send(encode(request))
        return parse(self.control.recv(4096), Answer, AreaStats)

    def network_stats(self) -> AreaStats:
        stats = self.request(Request("area", "learn", 0, "network"))
        assert isinstance(stats, AreaStats)
        return stats

    def reload(self) -> Answer:
        answer = self.request(Request("reload", "learn"))
        assert isinstance(answer, Answer)
        return answer

    def confirm_network(self) -> Answer:
        """From a login of its own, as a person who came in again."""
        request = encode(Request("confirm", "learn", 0, "network"))
        return parse(ask_from_a_new_login(self.run / "gate.sock", request), Answer)

    def wait_for_alarm(self, link: socket.socket, code: str, within_s: float = 60) -> Alarm:
        """The first alarm of a code that comes.

        Raises:
            TimeoutError: gate was silent for so long.
        """
        link.settimeout(within_s)
        while True:
            message = parse(link.recv(4096), *FACTS)
            if isinstance(message, Alarm) and message.code == code:
                return message

    def first_limit(self, link: socket.socket) -> str:
        """The address that the first refusal by a limit names."""
        link.settimeout(60)
        while True:
            message = parse(link.recv(4096), *FACTS)
            if isinstance(message, NetworkVerdict) and message.direction == "limit":
                return socket.inet_ntoa(message.address)

    def kill_gate(self) -> None:
        """SIGKILL, and wait for its end."""
        os.kill(self.gate_pid, 9)
        wait_until(lambda: not Path(f"/proc/{self.gate_pid}").exists())


W = TypeVar("W", bound=NetWorld)


@contextlib.contextmanager
def net_world(folder: Path, kind: type[W] = NetWorld) -> Iterator[W]:  # type: ignore[assignment]
    """A wire with two ends, nothing on it yet."""
    made = kind(folder)
    try:
        made.make()
        yield made
    finally:
        made.close()
        made.gone()
