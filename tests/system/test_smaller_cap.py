"""A gateway on a small disk whose spool was filled under a larger cap, as before an upgrade.

Real: an ext4 in a file, link as a process with the settings it comes with, broker and fleet. It
starts, what is too much goes as bulk with a signed gap record, every alarm arrives, and status,
`spool stat` and doctor all say how much may be held now, and by which setting.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from edgewarden.record import reader
from edgewarden.record.quota import cap_of
from edgewarden.settings.schema import Settings
from edgewarden.trust import identity as identities
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.record import RecordClass, decode_record
from tests import filled
from tests.fleet.standing import ENV
from tests.system import loopfs
from tests.system.cards import DEVICE, Card, standing
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "loop-mount", "mosquitto")

IMAGE_MB = 64
BEFORE_BYTES = 24 << 20
WAIT_S = 90.0


def said(card: Card, *words: str) -> dict[str, object]:
    line = [sys.executable, "-m", "edgewarden", *words, "--json", "--settings", str(card.settings)]
    done = subprocess.run(line, env=ENV, capture_output=True, timeout=60, check=False)
    body = json.loads(done.stdout)
    assert isinstance(body, dict)
    return body


def test_it_starts_keeps_every_alarm_and_says_what_it_may_hold() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="ew-cap-") as folder,
        loopfs.made(Path(folder), IMAGE_MB) as fs,
        standing(Path(folder)) as stage,
    ):
        enrolled = stage.enrolled().state
        state = Path(shutil.copytree(enrolled, fs.root / "gw"))
        identity = identities.load(state)
        held = filled.fill(state, BEFORE_BYTES, DEVICE, (identity.signer(), identity.x5chain()))
        seen = os.statvfs(fs.root)
        kept = Settings().spool
        cap = cap_of(kept.cap_bytes, kept.cap_percent, seen.f_blocks * seen.f_frsize)
        assert cap.setting == "cap_percent"
        assert cap.size_bytes < 7 << 20 < held
        before = reader.stat(state)
        card = stage.keep(Card(state))
        card.start()
        wait_until(lambda: "storage" in card.status(), WAIT_S)
        status = card.status()
        storage = status["storage"]
        assert isinstance(storage, dict)
        assert storage["cap_bytes"] == cap.size_bytes
        assert said(card, "spool", "stat")["cap_bytes"] == cap.size_bytes
        rungs = said(card, "doctor", "disk")["rungs"]
        assert isinstance(rungs, list)
        (rung,) = [r["text"] for r in rungs if r["name"] == "spool"]
        assert f"cap {cap.size_bytes >> 20} MiB" in rung

        def settled() -> bool:
            spool, chain = card.status().get("spool"), stage.fleet.show(DEVICE)["chain"]
            assert isinstance(chain, dict)
            return (
                isinstance(spool, dict)
                and {c.label for c in RecordClass} == set(spool)
                and all(chain[c]["head"] >= one["durable"] > 0 for c, one in spool.items())
            )

        wait_until(settled, WAIT_S)
        after = reader.stat(state)
        assert after[RecordClass.BULK].evicted > before[RecordClass.BULK].evicted == 0
        assert sum(one.bytes for one in after.values()) <= cap.size_bytes
        shown = stage.fleet.show(DEVICE)["chain"]
        assert isinstance(shown, dict)
        assert [c["unexplained_gaps"] for c in shown.values()] == [0, 0, 0]
        alarms = [
            decode_record(cose.open_envelope(s.data, ContentType.RECORD).payload)
            for s in reader.iterate(state, RecordClass.ALARM)
        ]
        assert [r.body["code"] for r in alarms if r.body.get("code") == "EW-SPL-003"], "told"
        for c in (RecordClass.ALARM, RecordClass.AUDIT):
            assert after[c].evicted == 0
        assert reader.verify(state).ok
