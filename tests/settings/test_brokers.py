"""Profiles of brokers: complete, sourced, and each limit refuses by the setting's name."""

from __future__ import annotations

import pytest

from edgewarden.settings.brokers import (
    LONGEST_CLIENT_ID_BYTES,
    LONGEST_TOPIC_BYTES,
    LONGEST_TOPIC_SLASHES,
    PROFILES,
    Profile,
    broker_rules,
    fits_our_topics,
)
from edgewarden.settings.fields import declared
from edgewarden.settings.source import SourceFile
from edgewarden.settings.uplink import Uplink
from edgewarden.settings.validate import load_settings
from edgewarden.wire.record import MAX_RECORD_BYTES, RecordClass
from edgewarden.wire.topics import MAX_SESSION_NAME, Topic, record_topic

AWS = """\
[uplink]
broker = "aws-iot-core"
host = "abc-ats.iot.eu-central-1.amazonaws.com"
port = 443
alpn = "x-amzn-mqtt-ca"
"""


def test_every_profile_can_be_chosen_and_every_choice_is_a_profile() -> None:
    assert declared(Uplink)["broker"].key.choices == tuple(PROFILES)


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_says_where_its_facts_are_written(name: str) -> None:
    assert PROFILES[name].sources
    assert all(len(source) > 20 for source in PROFILES[name].sources)


@pytest.mark.parametrize("name", PROFILES)
def test_the_defaults_go_with_every_profile(name: str) -> None:
    assert not [b for b in broker_rules(Uplink(broker=name), 65536) if b[0][1] != "broker"]


@pytest.mark.parametrize("name", PROFILES)
def test_our_topics_and_names_are_within_its_limits(name: str) -> None:
    assert fits_our_topics(PROFILES[name])


def test_the_longest_of_ours_are_what_the_wire_says() -> None:
    longest = "x" * 63
    topics = [record_topic(longest, longest, c) for c in RecordClass]
    topics += [str(Topic(longest, longest, "e", n)) for n in ("evidence", "nonce", "result")]
    assert max(len(t) for t in topics) <= LONGEST_TOPIC_BYTES
    assert {t.count("/") for t in topics} == {LONGEST_TOPIC_SLASHES}
    assert LONGEST_CLIENT_ID_BYTES == MAX_SESSION_NAME


@pytest.mark.parametrize("limit", ["topic_slashes", "topic_bytes", "client_id_bytes"])
def test_a_broker_with_less_room_would_be_seen(limit: str) -> None:
    small = Profile(title="x", sources=("x",), **{limit: 4})  # type: ignore[arg-type]
    assert not fits_our_topics(small)


def test_a_record_of_the_default_commit_fits_aws() -> None:
    limit = PROFILES["aws-iot-core"].payload_bytes
    assert limit is not None
    assert limit >= MAX_RECORD_BYTES


@pytest.mark.parametrize("name", ["mqtt311", "nats"])
def test_a_broker_of_3_1_1_goes_with_the_verifiers_word_alone(name: str) -> None:
    ((path, text, _),) = broker_rules(Uplink(broker=name), 65536)
    assert path == ("uplink", "broker")
    assert 'acknowledged_by = "verifier"' in text
    assert not list(broker_rules(Uplink(broker=name, acknowledged_by="verifier"), 65536))


def test_a_broker_that_cannot_be_used_is_refused_with_the_reason() -> None:
    ((path, text, _),) = broker_rules(
        Uplink(broker="azure-iot-hub", acknowledged_by="verifier"), 65536
    )
    assert path == ("uplink", "broker")
    assert "topics are fixed" in text


def test_aws_on_the_shared_port() -> None:
    found = load_settings([SourceFile("a", AWS)]).uplink
    assert (found.port, found.alpn, found.transport) == (443, "x-amzn-mqtt-ca", "mqtt")


def test_a_smaller_window_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROFILES, "mqtt5", Profile(title="x", window=5, sources=("x",)))
    ((path, text, _),) = broker_rules(Uplink(window=6), 65536)
    assert path == ("uplink", "window")
    assert "5" in text
