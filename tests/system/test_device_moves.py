"""A device that moves is one device: its old connection is found dead before two places are two.

Two network namespaces of the test's own with one wire; the device is mosquitto_pub.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.downstream.world import Devices
from tests.system.tpm_tls import ROOT
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "net-namespaces", "nft", "mosquitto_pub")

GATEWAY, OLD, NEW = "10.78.0.1", "10.78.0.2", "10.78.0.3"


DROPPED = """
table ip t {{
    chain c {{
        type filter hook input priority 0
        ip daddr {} drop
    }}
}}
"""


def ip(*words: str) -> None:
    subprocess.run(("ip", *words), check=True, capture_output=True)


@contextmanager
def wire() -> Iterator[tuple[str, str]]:
    """(gateway's namespace, device's namespace)."""
    token = secrets.token_hex(3)
    ours, theirs = f"ewd-{token}", f"ewm-{token}"
    with ExitStack() as made:
        for name in (ours, theirs):
            ip("netns", "add", name)
            made.callback(ip, "netns", "del", name)
        ip("-n", ours, "link", "add", "a0", "type", "veth", "peer", "name", "b0", "netns", theirs)
        for name, link, addresses in ((ours, "a0", [GATEWAY]), (theirs, "b0", [OLD, NEW])):
            for address in addresses:
                ip("-n", name, "addr", "add", f"{address}/24", "dev", link)
            ip("-n", name, "link", "set", link, "up")
        yield ours, theirs


class Gateway:
    """The listener, and what it said."""

    def __init__(self, namespace: str, folder: Path) -> None:
        line = (
            "ip",
            "netns",
            "exec",
            namespace,
            sys.executable,
            "-m",
            "tests.system.device_listener",
        )
        self.process = subprocess.Popen(
            (*line, str(folder), GATEWAY),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'agent'}:{ROOT}"},
        )
        self.all_told: list[dict[str, object]] = []
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        wait_until(lambda: self.all_told)

    @property
    def told(self) -> dict[str, object]:
        """The last of it."""
        return self.all_told[-1]

    def places_at(self, reading: int) -> object:
        """Where it was when this came, even if that is a while ago by now."""
        of = (t["places"] for t in self.all_told if t["readings"] == {"device:press-1/a": reading})
        return next(of)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.all_told.append(json.loads(line))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def device(namespace: str, devices: Devices, own: tuple[str, str], address: str, port: object) -> Iterator[subprocess.Popen[str]]:  # fmt: skip  # noqa: E501
    tls = ("--cafile", str(devices.ca_path), "--cert", own[0], "--key", own[1], "--insecure")
    where = ("-h", GATEWAY, "-p", str(port), "-A", address)
    process = subprocess.Popen(
        (
            "ip",
            "netns",
            "exec",
            namespace,
            "mosquitto_pub",
            *where,
            *tls,
            "-q",
            "1",
            "-t",
            "a",
            "-l",
        ),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def test_a_device_that_moves_with_our_answer_on_its_way_is_one(tmp_path: Path) -> None:
    """The answer that it never acknowledged must not keep the old session alive."""
    devices = Devices(tmp_path)
    own = devices.device("press-1")
    with wire() as (ours, theirs), ExitStack() as stack:
        gateway = Gateway(ours, tmp_path)
        stack.callback(gateway.close)
        port = gateway.told["port"]
        old = stack.enter_context(device(theirs, devices, own, OLD, port))
        say(old, "1")
        wait_until(lambda: gateway.told["readings"] == {"device:press-1/a": 1})
        rules = DROPPED.format(OLD)
        subprocess.run(
            ("ip", "netns", "exec", theirs, "nft", "-f", "-"), input=rules, text=True, check=True
        )
        say(old, "2")
        wait_until(lambda: gateway.told["readings"] == {"device:press-1/a": 2})
        ip("-n", theirs, "addr", "del", f"{OLD}/24", "dev", "b0")
        ip("-n", theirs, "addr", "replace", f"{NEW}/24", "dev", "b0")
        new = stack.enter_context(device(theirs, devices, own, NEW, port))
        say(new, "3")
        wait_until(lambda: gateway.told["readings"] == {"device:press-1/a": 3})
        assert gateway.places_at(3) == [OLD, NEW]
        wait_until(lambda: gateway.told["places"] != [OLD, NEW])
        assert (gateway.told["places"], gateway.told["codes"]) == ([NEW], [])
        say(new, "4")
        wait_until(lambda: gateway.told["readings"] == {"device:press-1/a": 4})
