"""`edgewarden-fleet serve` acknowledges what it stored: its own key, its own session, in MQTT 5 and
in 3.1.1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.link.acknowledged import VerifierKey, open_word
from edgewarden.trust.keys import key_id, verifier_for
from edgewarden.wire.acknowledgement import Acknowledgement
from edgewarden.wire.record import RecordClass, record_hash
from tests.fleet.standing import RealBoard, Standing, client_of
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("mosquitto")

AUDIT = RecordClass.AUDIT


@pytest.fixture(params=["acknowledge = true", 'profile = "mqtt311"'], ids=["mqtt5", "mqtt311"])
def standing(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Standing]:
    made = Standing(tmp_path / "fleet")
    toml = made.folder / "fleet.toml"
    toml.write_text(toml.read_text().replace("[broker]\n", f"[broker]\n{request.param}\n"))
    conf = Path(str(made.init["mosquitto_conf"]))
    if "311" in request.param:  # a broker of 3.1.1 has an access list in a file
        kept = [ln for ln in conf.read_text().splitlines() if not ln.startswith("plugin")]
        kept = [ln for ln in kept if not ln.startswith("acl_file")]
        conf.write_text("\n".join([*kept, f"acl_file {made.folder / 'broker' / 'acl'}", ""]))
    try:
        made.start_broker()
        made.start_server()
        yield made
    finally:
        made.close()


def test_serve_says_how_far_it_has_stored(standing: Standing) -> None:
    board = RealBoard(standing.enrol("gw-acked"))
    public = board.folder.verifier_key
    key = VerifierKey(key_id(public), verifier_for(public))
    client = client_of(standing, board)
    words: list[Acknowledgement] = []

    def heard() -> int:
        while not client.got.empty():
            got = client.got.get_nowait()
            if got.topic == board.topic("e", "ack"):
                words.append(open_word(got.payload, key, "main", "gw-acked"))
        return max((w.upto[AUDIT].seq for w in words if AUDIT in w.upto), default=0)

    try:
        client.subscribe(board.topic("e", "ack"))
        made = [board.introduce(AUDIT), *(board.event(AUDIT, n=n) for n in range(4))]
        for one in (*made[:2], *made[3:]):
            assert client.publish(one.topic, one.data) < 0x80
        wait_until(lambda: heard() == 2 and words[-1].upto[AUDIT].head == 5, 60)
        assert client.publish(made[2].topic, made[2].data) < 0x80
        wait_until(lambda: heard() == 5, 60)
        assert words[-1].upto[AUDIT].hash == record_hash(made[4].data)
    finally:
        client.close()
