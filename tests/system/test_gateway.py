"""One gateway for real: what it survives, what it says about itself, what a changed byte does."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.cli.json_page import printed
from tests.system.standing import FLEET, Site, read_json, standing, whole
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "mosquitto")

PARTS = ("guard", "gate", "link")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with standing() as site:
        yield site


def test_attests_affirming(site: Site) -> None:
    site.await_fleet(lambda f: f["attestation"]["result"] == "affirming")
    site.await_status(lambda s: s["attestation"]["result"] == "affirming")


@pytest.mark.parametrize(
    "words",
    ["status", "findings", "sensors", "doctor", "spool stat", "spool verify", "identity show",
     "policy show", "policy would-block", "policy learn --from-observed"],
)  # fmt: skip
def test_what_is_printed_as_json_is_what_its_page_says(site: Site, words: str) -> None:
    """Every key, in both directions, and its type."""
    site.await_status(lambda s: s["uplink"]["connected"])
    done = site.command(*words.split(), "--json")
    assert printed(done.stdout.decode()) == []


def test_a_running_link_says_of_certificate_and_clock_what_doctor_says(site: Site) -> None:
    """Held up by a certificate that is about to end; the machine's clock may be well or ill."""
    file = site.gateway.identity / "identity.json"
    was, body = file.read_text(), json.loads(file.read_text())
    soon = datetime.now(UTC) + timedelta(days=2)
    try:
        file.write_text(json.dumps({**body, "not_after_utc": f"{soon:%Y-%m-%dT%H:%M:%SZ}"}))
        site.kill("link")
        site.await_status(lambda s: s["uplink"]["connected"])
        said = {reason["code"] for reason in site.status()["reasons"]}
        climbed = {
            rung["code"]
            for area in ("identity", "clock")
            for rung in json.loads(site.command("doctor", area, "--json").stdout)["rungs"]
        } - {""}
    finally:
        file.write_text(was)
        site.kill("link")
        site.await_status(lambda s: s["uplink"]["connected"])
    assert "EW-ID-013" in climbed
    assert climbed == said & {"EW-ID-012", "EW-ID-013", "EW-ID-015", "EW-ID-016"}


def test_link_runs_without_privilege(site: Site) -> None:
    status = Path(f"/proc/{site.pids()['link']}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split()[0] != "0"
    assert int(fields["CapEff"], 16) == 0


def test_only_its_owner_reads_the_key(site: Site) -> None:
    key = site.gateway.identity / "key.pem"
    assert key.stat().st_mode & 0o077 == 0
    assert key.stat().st_uid != 0


@pytest.mark.parametrize("part", PARTS)
def test_a_killed_part_comes_back_and_nothing_is_lost(site: Site, part: str) -> None:
    promised = site.status()["spool"]
    site.kill(part)
    site.await_status(lambda s: s["uplink"]["connected"] and s["spool"])
    now = site.status()["spool"]
    for name, was in promised.items():
        assert now[name]["durable"] >= was["durable"]
    reached = {name: c["durable"] for name, c in now.items()}
    site.await_fleet(lambda f: all(f["chain"][n]["head"] >= d for n, d in reached.items()))
    shown = site.shown()
    assert [c["unexplained_gaps"] for c in shown["chain"].values()] == [0, 0, 0]
    assert shown["reports_rejected"] == {}
    assert not [f for f in shown["findings"] if "fork" in f["kind"]]


def test_broken_settings_change_nothing_that_runs(site: Site) -> None:
    good = site.gateway.settings.read_text()
    before = site.pids()
    broken = good.replace("bulk_commit_s = 2", "bulk_comit_s = 2") + "\n[hosst]\nperiod_s = 5\n"
    try:
        site.gateway.settings.write_text(broken)
        os.kill(before["link"], signal.SIGHUP)
        asked = site.plain("config", "check", str(site.gateway.settings))
        told = asked.stderr.decode() + asked.stdout.decode()
        assert asked.returncode == 65
        assert "bulk_comit_s" in told
        assert "did you mean bulk_commit_s?" in told
        assert "hosst" in told
        site.await_status(lambda s: any("bulk_comit_s" in r["text"] for r in s["reasons"]))
        assert site.status()["verdict"] == "degraded"
    finally:
        site.gateway.settings.write_text(good)
    os.kill(before["link"], signal.SIGHUP)
    assert site.pids() == before


def test_a_second_agent_on_the_same_folders_is_refused_and_harms_nothing(site: Site) -> None:
    before = site.pids()
    second = site.command("run")
    assert second.returncode == 65
    assert "EW-AGT-009" in second.stderr.decode()
    link = site.command("link")
    assert link.returncode != 0
    assert "EW-SPL-009" in link.stderr.decode()
    assert site.pids() == before
    assert site.status()["uplink"]["connected"]
    assert site.shown()["attestation"]["result"] == "affirming"


def test_a_renewed_certificate_is_taken_at_once_and_nothing_is_lost(site: Site) -> None:
    before, key = site.status(), site.gateway.identity / "key.pem"
    was_serial, was_key = before["identity"]["certificate"]["serial"], key.read_bytes()
    token = site.stage.folder / "renewal"
    made = site.stage.run(
        FLEET, "token", "new", "--dir", site.demo.fleet, "--device", before["device"], "--json"
    )
    said = read_json(made)
    token.write_text(said["token"])
    done = site.command("identity", "renew", "--ca", said["url"], "--token-file", str(token))
    assert done.returncode == 0, done.stderr
    site.await_status(
        lambda s: (
            s["uplink"]["connected"]
            and s["identity"]["certificate"]["serial"] not in (was_serial, "")
        )
    )
    assert key.read_bytes() == was_key
    assert key.stat().st_uid != 0
    promised = {name: c["durable"] for name, c in site.status()["spool"].items()}
    site.await_fleet(lambda f: all(f["chain"][n]["head"] >= d for n, d in promised.items()))
    site.await_fleet(lambda f: f["attestation"]["result"] == "affirming")
    shown = site.shown()
    assert [c["unexplained_gaps"] for c in shown["chain"].values()] == [0, 0, 0]
    assert shown["reports_rejected"] == {}


def test_one_flipped_byte_of_code_is_contraindicated(site: Site) -> None:
    site.await_fleet(lambda f: f["attestation"]["result"] == "affirming")
    victim = site.agent / "edgewarden" / "judge" / "triage.py"
    original = victim.read_bytes()
    at = original.index(b"storm")
    try:
        victim.write_bytes(original[:at] + b"S" + original[at + 1 :])
        site.await_fleet(lambda f: f["attestation"]["facets"]["executables"] == "contraindicated")
        assert site.shown()["attestation"]["result"] == "contraindicated"
        site.await_status(lambda s: s["attestation"]["result"] == "contraindicated")
    finally:
        victim.write_bytes(original)
    site.await_fleet(lambda f: f["attestation"]["result"] == "affirming")


def test_a_stopped_agent_starts_where_it_was_and_a_killed_one_leaves_nothing() -> None:
    with standing() as site:
        before = site.status()["spool"]
        site.stop()
        assert site.command("status").returncode == 3
        site.start()
        site.await_status(whole)
        after = site.status()["spool"]
        assert all(after[name]["durable"] >= was["durable"] for name, was in before.items())
        site.await_status(
            lambda s: all(
                s["spool"][name]["durable"] > was["durable"] for name, was in before.items()
            )
        )
        site.await_fleet(lambda f: f["online"])
        assert [c["unexplained_gaps"] for c in site.shown()["chain"].values()] == [0, 0, 0]
        parts = site.pids()
        assert set(parts) == set(PARTS)
        assert site.supervisor is not None
        site.supervisor.kill()
        site.supervisor.wait(60)
        wait_until(lambda: not any(_lives(pid) for pid in parts.values()), 60)


def test_a_broken_file_keeps_nothing_down_after_a_reboot() -> None:
    with standing() as site:
        site.stop()
        with site.gateway.settings.open("a") as settings:
            settings.write("\n[hosst]\nperiod_s = 5\n")
        site.start()
        site.await_status(whole)
        assert set(site.pids()) == set(PARTS)
        status = site.status()
        assert "EW-SET-013" in [reason["code"] for reason in status["reasons"]]


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
