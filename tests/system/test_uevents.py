"""The kernel's own messages about devices, in a network namespace of the test's own: devices of a
network namespace are told only there, so nothing of this machine changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("root", "unshare-net")

AGENT = Path(__file__).parents[2] / "agent"
SCRIPT = """
import socket, subprocess, sys
sys.path.insert(0, sys.argv[1])
from edgewarden.kernel.uevent import NETLINK_KOBJECT_UEVENT, open_uevents
source = open_uevents()
FORGED = b"add@/devices/x\\0ACTION=add\\0DEVPATH=/devices/x\\0SUBSYSTEM=usb\\0SEQNUM=9\\0"
with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_KOBJECT_UEVENT) as other:
    other.bind((0, 0))
    for to in ((0, 1), (source._socket.getsockname()[0], 0)):
        other.sendto(FORGED, to)
subprocess.run(["ip", "link", "add", "ew-a", "type", "bridge"], check=True)
heard = source.read()
for event in heard.events:
    if event.path.count("/") == 3 and "/net/" in event.path:  # disks are told, too
        print(event.action, event.subsystem, event.path)
print("refused", source.refused, "lost", heard.lost)
"""


def test_the_kernels_messages_are_read_and_forged_ones_are_not() -> None:
    line = ["unshare", "-n", sys.executable, "-c", SCRIPT, str(AGENT)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "add net devices/virtual/net/ew-a",
        "refused 2 lost False",
    ]
