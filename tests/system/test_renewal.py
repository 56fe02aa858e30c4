"""Renewal for real: a running gateway whose certificate has ended, and kills at any moment.

A clock that is wrong is the pure rule's (tests/judge/test_renewal.py) and the command's here.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from edgewarden.enrol.by_key import renew
from edgewarden.enrol.folder import prove, want
from edgewarden.trust.identity import load
from edgewarden.trust.time_file import keep
from edgewarden.trust.tls import client_context
from edgewarden.wire.timing import Kept
from edgewarden_fleet.ca.rollover import Rollover
from edgewarden_fleet.store import registry
from tests.enrol.fleet_service import DAY_S, made_ago, standing_service
from tests.fleet.standing import ENV
from tests.system.standing import standing

pytestmark = pytest.mark.needs("root", "mosquitto", "faketime")

DEVICE = "gw-cut"
SEED = 20261125


def settings_of(folder: Path) -> Path:
    path = folder / "edgewarden.toml"
    path.write_text(f'[paths]\nstate = "{folder}/state"\nrun = "{folder}/run"\n')
    return path


def renewing(settings: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "edgewarden", "identity", "renew", "--settings", str(settings)]
    return subprocess.Popen(
        [*command, *more], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    out, _ = process.communicate(timeout=120)
    return process.returncode, out.decode()


def test_an_ended_certificate_renews_itself_while_the_gateway_runs() -> None:
    """By the fleet's clock it has ended: evidence comes from the running link, no token is needed,
    and nothing that was promised is lost."""
    with standing() as site:
        site.await_status(lambda s: s["uplink"]["connected"])
        before = site.status()
        serial = before["identity"]["certificate"]["serial"]
        with closing(sqlite3.connect(Path(site.demo.fleet, "store/fleet.db"))) as db, db:
            db.execute("UPDATE device SET not_after_utc_s = ?", (time.time() - DAY_S,))
        done = site.command("identity", "renew")
        assert done.returncode == 0, done.stderr
        site.await_status(
            lambda s: (
                s["uplink"]["connected"]
                and s["identity"]["certificate"]["serial"] not in (serial, "")
            )
        )
        identities = Path(site.gateway.identity).parent
        site.await_status(lambda _: not (identities / "previous").is_symlink())
        assert len(list(identities.glob("identity-*"))) == 1, "it has carried a round trip"
        promised = {name: c["durable"] for name, c in site.status()["spool"].items()}
        site.await_fleet(lambda f: all(f["chain"][n]["head"] >= d for n, d in promised.items()))
        shown = site.shown()
        assert [c["unexplained_gaps"] for c in shown["chain"].values()] == [0, 0, 0]
        assert shown["reports_rejected"] == {}
        early = site.command("identity", "renew", "--if-due")
        assert early.returncode == 0
        assert b"due from" in early.stdout


def test_killed_at_any_moment_there_is_a_usable_certificate(tmp_path: Path, runs: int) -> None:
    """SIGKILL at random moments of the command, the service up all the time: key, certificate and
    root load and fit after each, and the next try works. The wait is drawn from the time that a
    whole renewal takes here."""
    draw = random.Random(SEED)
    folder = made_ago(tmp_path / "fleet", 300)
    settings, state = settings_of(tmp_path), tmp_path / "state"
    with standing_service(folder) as service:
        service.enrol(state, DEVICE, days_ago=25)
        began = time.monotonic()
        code, said = ended(renewing(settings))
        assert code == 0, said
        whole_s = time.monotonic() - began
        killed = tries = 0
        while killed < runs and tries < 10 * runs:  # one that was faster was not killed
            tries += 1
            began = time.monotonic()
            process = renewing(settings)
            try:
                process.wait(draw.uniform(0.2, 1.0) * whole_s)
                whole_s = time.monotonic() - began  # the machine has become faster since
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
            code, _ = ended(process)
            killed += code == -signal.SIGKILL
            found = load(state)
            client_context(found)  # OpenSSL: the certificate is the key's
            known = registry.find(service.db, DEVICE)
            assert known is not None
            assert known.public_key == found.signer().public_key()
        print(f"{killed} killed of {tries}, within {whole_s:.2f} s of a renewal's whole time")
        assert killed == runs
        fresh = renew(state, load(state), lambda _: b"")
        assert fresh == load(state)
        assert prove(state, fresh.folder.name)


def test_every_write_of_a_renewal_is_followed_by_a_kill_once(tmp_path: Path) -> None:
    """The same by the operation, in tests/trust/test_identity.py; here the folder after a kill
    between the two symlinks is used by the next renewal."""
    folder = made_ago(tmp_path / "fleet", 300)
    with standing_service(folder) as service:
        old = service.enrol(tmp_path / "state", DEVICE, days_ago=25)
        parent = tmp_path / "state/identity"
        (parent / "previous").symlink_to(os.readlink(parent / "current"))
        assert load(tmp_path / "state") == old
        fresh = renew(tmp_path / "state", old, lambda _: b"")
        assert os.readlink(parent / "previous") == old.folder.name
        assert load(tmp_path / "state") == fresh


@pytest.mark.parametrize("service_tells", [True, False], ids=["signed time", "no signed time"])
@pytest.mark.parametrize("when", ["1970-01-02 00:00:00", "+0d", "+3650d", "-1000d"])
@pytest.mark.parametrize("age", [0, 25], ids=["fresh", "due"])
def test_whatever_the_clock_says_nothing_is_lost_and_what_is_due_is_renewed(
    tmp_path: Path, when: str, age: int, service_tells: bool
) -> None:
    """faketime moves the command's clock; the service keeps its own. Where nothing vouches for the
    clock here the fleet is asked what time it is, and a certificate that is due is renewed whatever
    the clock says; without its answer a wrong clock does nothing."""
    folder = made_ago(tmp_path / "fleet", 300)
    settings, state = settings_of(tmp_path), tmp_path / "state"
    with standing_service(folder, with_time=service_tells) as service:
        before = service.enrol(state, DEVICE, days_ago=age)
        process = subprocess.Popen(
            [sys.executable, "-m", "edgewarden", "identity", "renew", "--if-due",
             "--settings", str(settings)],
            env={**ENV, **moved_clock(when)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        code, said = ended(process)
        print(code, said)
        after = load(state)
        client_context(after)
        assert after.signer().public_key() == before.signer().public_key()
        if service_tells or when == "+0d":
            assert code == 0, said
            assert (after.serial != before.serial) is bool(age), said
        else:
            assert after == before
            assert "clock" in said
        body = json.loads((after.folder / "identity.json").read_text())
        assert body["device"] == DEVICE


def commanded(settings: Path, when: str, *more: str) -> tuple[int, str]:
    """`identity renew` under another clock."""
    words = [sys.executable, "-m", "edgewarden", "identity", "renew", "--settings", str(settings)]
    return ended(
        subprocess.Popen(
            [*words, *more], env={**ENV, **moved_clock(when)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
    )  # fmt: skip


@pytest.mark.parametrize("when", ["1970-01-02 00:00:00", "+3650d"])
def test_a_token_renews_whatever_the_clock_says(tmp_path: Path, when: str) -> None:
    """Off for longer than the grace, and no battery: the fleet's signed time counts here, too."""
    folder = made_ago(tmp_path / "fleet", 300)
    settings, state = settings_of(tmp_path), tmp_path / "state"
    with standing_service(folder, with_time=True) as service:
        before = service.enrol(state, DEVICE, days_ago=250)
        code, said = commanded(settings, when)
        assert (code, "renewal_too_late" in said) == (65, True), said
        token = tmp_path / "token"
        token.write_text(service.token(DEVICE))
        code, said = commanded(settings, when, "--token-file", str(token))
        assert code == 0, said
        assert load(state).serial != before.serial


def test_another_verifier_key_is_learnt_in_1970(tmp_path: Path) -> None:
    """The key that would sign the time is the one that this renewal is to bring: the floor that
    link kept has to do for the dates, as it does for link's own connection."""
    folder = made_ago(tmp_path / "fleet", 300)
    settings, state = settings_of(tmp_path), tmp_path / "state"
    with standing_service(folder, with_time=True) as service:
        before = service.enrol(state, DEVICE)
        Rollover(folder, time.time()).verifier(service.db)
    want(state, "the verifier signs with another key")
    assert keep(state, Kept(bytes(16), time.time_ns(), 0, None))
    with standing_service(folder, with_time=True) as service:
        code, said = commanded(settings, "1970-01-02 00:00:00", "--if-due", "--ca", service.url)
        assert code == 0, said
        after = load(state)
    assert after.serial != before.serial, said
    assert after.verifier_key == folder.verifier().public_key() != before.verifier_key


def moved_clock(when: str) -> dict[str, str]:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    return {"LD_PRELOAD": str(library), "FAKETIME": when}
