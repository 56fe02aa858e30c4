"""Acceptance 3 of the data plane, what test_uplink.py has not: a real Mosquitto's Receive Maximum,
and memory while it stands still. The rest of the number (stop, kill, SIGSTOP over three keepalives,
wrong and expired certificates, 0x87, PUBLISH before the first PUBACK) is there, named a03 too.
"""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from edgewarden.wire.record import RecordClass
from tests.broker import Broker, Pki
from tests.system.test_uplink import WAIT_S, _command, chains, durable, gap_free, listening
from tests.system.test_uplink import gateway as made_gateway
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("mosquitto")

GROWTH_BYTES = 4 << 20
"""Target 4.2: resident set with a backlog, above the one without."""


@pytest.mark.parametrize("maximum", [1, 20])
def test_a03_nothing_is_lost_at_a_receive_maximum_of(
    tmp_path: Path, pki: Pki, maximum: int
) -> None:
    limit = [f"max_inflight_messages {maximum}"]
    with (
        Broker(tmp_path / "broker", pki, extra=limit) as broker,
        listening(broker, pki) as heard,
        made_gateway(tmp_path, broker.port, pki) as one,
    ):
        one.write(alarms=60, audits=20, bulk=3)
        wait_until(one.drained, WAIT_S)
        heard.forget_ready()
        broker.restart()
        one.write(alarms=60, audits=20, bulk=3)
        wait_until(one.drained, WAIT_S)
        wait_until(lambda: gap_free(heard, durable(one)), WAIT_S)
        assert len(chains(heard)[RecordClass.ALARM]) >= 120
        assert one.snapshot().counters.get("refused_0x93", 0) == 0


def rss_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a03_memory_stays_flat_while_the_broker_stands_still(tmp_path: Path, pki: Pki) -> None:
    """The process writes for ever; the broker is stopped. What waits is on the disk."""
    lines: list[bytes] = []
    with Broker(tmp_path / "broker", pki) as broker, listening(broker, pki) as heard:
        process = subprocess.Popen(
            _command(tmp_path / "state", broker.port, pki, 3),
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env={"PYTHONPATH": "agent", "PATH": "/usr/bin:/bin"},
        )
        assert process.stdout is not None
        reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
        reader.start()
        try:
            wait_until(lambda: len(lines) > 100 and heard.payloads("/r/alarm"), WAIT_S)
            broker.pause()
            before, known = rss_bytes(process.pid), len(lines)
            wait_until(lambda: len(lines) > known + 600, 2 * WAIT_S)
            grown = rss_bytes(process.pid) - before
            broker.resume()
        finally:
            broker.resume()
            process.kill()
            process.wait(10)
            reader.join(10)
            process.stdout.close()
    assert grown <= GROWTH_BYTES
