"""A site without IPv4: broker, fleet and gateway in a network namespace of their own.

    unshare --net --mount python -m tests.system.ipv6_world FOLDER

Takes 127.0.0.1 off its loopback and gives "localhost" one address, ::1, in a mount namespace of its
own. Prints one JSON line: delivered, durable.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.broker import Broker, Pki, Subscriber
from tests.system.uplinks import DEVICE, FAST, Gateway
from tests.waiting import wait_until

PATIENT = replace(FAST, keepalive_s=30)


class Fleet(Subscriber):
    """paho's loop_start() makes its socket pair on 127.0.0.1, which there is not here."""

    def __init__(self, port: int, context: ssl.SSLContext, topics: Sequence[str]) -> None:
        super().__init__(port, context, topics)
        thread = threading.Thread(target=self.client.loop_forever)
        self.client.loop_start = thread.start  # type: ignore[assignment, method-assign]
        self.client.loop_stop = thread.join  # type: ignore[assignment, method-assign]


def main(folder: Path) -> None:
    hosts = folder / "hosts"
    hosts.write_text("::1 localhost\n")
    for words in (
        "ip link set lo up",
        "ip addr del 127.0.0.1/8 dev lo",
        f"mount --bind {hosts} /etc/hosts",
    ):
        subprocess.run(words.split(), check=True)
    pki = Pki(folder / "pki")
    context = pki.client_context(DEVICE)
    fleet = pki.client_context("fleet")
    with (
        Broker(folder / "broker", pki, address="::1", port=8883) as broker,
        Fleet(broker.port, fleet, ["ew/1/#"]) as heard,
        Gateway(folder / "state", broker.port, lambda: context, PATIENT) as one,
    ):
        one.write(alarms=20, audits=5)
        wait_until(one.drained)
        durable = sum(s.durable for s in one.storage.state().values())
        wait_until(lambda: sum("/r/" in t for t, _, _ in heard.messages) >= durable)
        delivered = len({p for t, p, _ in heard.messages if "/r/" in t})
    print(json.dumps({"delivered": delivered, "durable": durable}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
