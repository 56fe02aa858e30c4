"""The measuring side of network.py: runs in a network namespace of its own, prints JSON."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from statistics import median

from edgewarden.kernel.nftables import Nft
from edgewarden.peers.modes import REMOVE, host_element, transaction
from edgewarden.peers.rules import compile_network
from edgewarden.peers.users import Users
from edgewarden.settings.policy import load_policy
from edgewarden.settings.schema import Network
from edgewarden.settings.source import SourceFile

CHANGES, PROGRAMS, REPLACES, CONNECTS = 200, 20, 9, 400
UID = 12345
HERE, PEER, PORT = "10.78.0.1", "10.78.0.2", 7000


def main() -> None:
    """Measure once."""
    _wire()
    listener = socket.create_server((PEER, PORT), backlog=256)
    nft = Nft()
    peers = ", ".join(f'"10.1.{i >> 8}.{i & 255}"' for i in range(4999))
    text = (
        f'[[egress]]\nname = "many"\nuid = {UID}\naddress = ["{PEER}", {peers}]\n'
        f'protocol = "tcp"\nport = {PORT}\n'
        f'[[egress]]\nname = "named"\nuid = {UID}\nhost = "a.example.org"\n'
    )
    policy = load_policy(SourceFile("p", text))
    table = compile_network(policy, Network(), users=Users(lambda _: None), generation=1)
    whole = transaction(table, "enforce", trial_s=0, units=[], answers={})
    # The wire's two ends are one machine, and the rules let what leaves by lo through: for this
    # measurement only, lo is no exception.
    whole = whole.replace('oifname "lo" accept\n', "")
    without, with_ = [], []
    for _ in range(4):
        nft.run(REMOVE)
        without += _connects(listener)
        nft.run(whole)
        assert _refused(), "a peer that is not listed was let through"
        with_ += _connects(listener)
    replace = []
    for _ in range(REPLACES):
        began = time.perf_counter()
        nft.run(whole)
        replace.append(time.perf_counter() - began)
    change, program = _changes(nft)
    nft.run(REMOVE)
    print(
        json.dumps(
            {
                "change_ms": median(change) * 1000,
                "program_ms": median(program) * 1000,
                "replace_ms": median(replace) * 1000,
                "with_us": median(with_) * 1e6,
                "without_us": median(without) * 1e6,
            }
        )
    )


def _wire() -> None:
    for command in (
        "ip link set lo up",
        f"ip addr add {HERE}/24 dev lo",
        f"ip addr add {PEER}/24 dev lo",
        "ip addr add 10.78.0.3/24 dev lo",
    ):
        subprocess.run(command.split(), check=True)


def _changes(nft: Nft) -> tuple[list[float], list[float]]:
    """By the library and by the program, in turns; each takes back what it added."""
    own, program = [], []
    for i in range(PROGRAMS):
        for k in range(CHANGES // PROGRAMS):
            address = f"192.0.2.{k + 1}"
            began = time.perf_counter()
            nft.run(host_element(0, 4, address, 300))
            own.append(time.perf_counter() - began)
            nft.run(f"delete element inet edgewarden h0v4 {{ {address} }}\n")
        words = f"add element inet edgewarden h0v4 {{ 198.51.100.{i % 5 + 1} timeout 1s }}"
        began = time.perf_counter()
        subprocess.run(["nft", words], check=True, capture_output=True)
        program.append(time.perf_counter() - began)
        if i % 5 == 4:
            nft.run("flush set inet edgewarden h0v4\n")
    return own, program


def _connects(listener: socket.socket) -> list[float]:
    os.setresuid(UID, UID, 0)  # the socket's owner is who makes it
    try:
        took = []
        for _ in range(CONNECTS // 4):
            with socket.socket() as s:
                began = time.perf_counter()
                s.connect((PEER, PORT))
                took.append(time.perf_counter() - began)
            listener.accept()[0].close()
        return took
    finally:
        os.setresuid(0, 0, 0)


def _refused() -> bool:
    os.setresuid(UID, UID, 0)
    try:
        with socket.socket() as s:
            s.settimeout(2)
            return s.connect_ex(("10.78.0.3", PORT)) != 0 and s.connect_ex((PEER, PORT + 1)) != 0
    finally:
        os.setresuid(0, 0, 0)


if __name__ == "__main__":
    main()
