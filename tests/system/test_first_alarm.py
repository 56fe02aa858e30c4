"""After a restart the first live alarm leaves before any of the backlog (issue 6, target 4.10).

Small here; tests/bench/backlog.py takes a full spool of 256 MB and a real link.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewarden.link.window import Turns
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.record import RecordClass, decode_record
from tests.broker import Broker, Pki, Subscriber
from tests.system.uplinks import DEVICE, FAST, Gateway, event, opened
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("mosquitto")

WAIT_S = 60.0
BACKLOG = 60


def in_front(tmp_path: Path, broker: Broker, pki: Pki) -> int:
    """Records of the backlog that the broker had before the alarm of the second start."""
    state = tmp_path / "state"
    first = opened(state)
    for n in range(BACKLOG):
        first.submit_event(event(n=n, text="x" * 200), RecordClass.AUDIT)
    first.flush().result(WAIT_S)
    first.stop()
    pair = pki.folder / f"{DEVICE}.pem", pki.folder / f"{DEVICE}.key"
    fleet = pki.folder / "fleet.pem", pki.folder / "fleet.key"
    again = Gateway(state, broker.port, lambda: pki.context(*pair), FAST)
    again.storage.submit_event(event(live=True), RecordClass.ALARM)
    again.storage.flush().result(WAIT_S)  # durable before there is a session
    with Subscriber(broker.port, pki.context(*fleet), ["ew/1/#"]) as heard, again:
        wait_until(again.drained, WAIT_S)
        wait_until(lambda: len(heard.payloads("/r/audit")) >= BACKLOG, WAIT_S)
        records = [
            decode_record(cose.open_envelope(payload, ContentType.RECORD).payload)
            for topic, payload, _ in heard.messages
            if "/r/" in topic
        ]
    at = next(i for i, r in enumerate(records) if _is_live(r.body.get("detail")))
    return sum(r.record_class is RecordClass.AUDIT for r in records[:at])


def _is_live(detail: object) -> bool:
    return isinstance(detail, dict) and detail.get("live") is True


def test_the_first_alarm_after_a_restart_leaves_before_the_backlog(
    tmp_path: Path, broker: Broker, pki: Pki
) -> None:
    assert in_front(tmp_path, broker, pki) == 0


def test_the_harness_sees_a_backlog_in_front_of_the_alarm(
    tmp_path: Path, broker: Broker, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: turns the other way round."""
    ordered = Turns.order
    monkeypatch.setattr(Turns, "order", lambda self, waiting: ordered(self, waiting)[::-1])
    assert in_front(tmp_path, broker, pki) > 0
