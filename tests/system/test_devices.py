"""Real clients at the listener for devices: openssl s_client, curl, mosquitto_pub.

Nothing of ours on the other end; a device's evidence is made with cbor2 and cryptography, as its
firmware would make it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgewarden.downstream.budget import Limits
from edgewarden.downstream.shown import DeskSettings, Known
from edgewarden.trust.keys import public_cose_key
from tests.downstream.test_device_evidence import EVIL, GOOD, eat
from tests.downstream.world import Devices, Running, listening
from tests.rules.planting import ROOT
from tests.waiting import until

pytestmark = [
    pytest.mark.needs("openssl"),
    pytest.mark.needs("curl"),
    pytest.mark.needs("mosquitto_pub"),
]


@pytest.fixture
def devices(tmp_path: Path) -> Devices:
    return Devices(tmp_path)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 300))  # type: ignore[arg-type]


async def run(*command: str, given: bytes = b"", wait_s: float = 90.0) -> tuple[int, bytes]:
    """Run a client to its end: its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(wait_s):
            said, _ = await process.communicate(given)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, said


def curl(running: Running, devices: Devices, own: tuple[str, str], path: str, *more: str) -> tuple[str, ...]:  # fmt: skip  # noqa: E501
    cert, key = own
    url = f"https://localhost:{running.port}{path}"
    tls = ("--cacert", str(devices.ca_path), "--cert", cert, "--key", key)
    return ("curl", "-sS", "-4", "--max-time", "60", *tls, *more, url)


def pub(running: Running, devices: Devices, own: tuple[str, str], *more: str, host: str = "localhost") -> tuple[str, ...]:  # fmt: skip  # noqa: E501
    cert, key = own
    where = ("-h", host, "-p", str(running.port), "--cafile", str(devices.ca_path))
    return ("mosquitto_pub", *where, "--cert", cert, "--key", key, *more)


@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
@pytest.mark.parametrize("qos", ["0", "1"])
def test_mosquitto_pub_publishes(devices: Devices, version: str, qos: str) -> None:
    own = devices.device("press-1")

    async def scene() -> None:
        async with listening(devices) as running:
            more = ("-V", version, "-q", qos, "-t", "hall/press-1/temperature", "-m", "21.5")
            assert await run(*pub(running, devices, own, *more)) == (0, b"")
            await running.settled()
            assert running.readings() == {"device:press-1/temperature": 21.5}
            told = running.desk.listed()["press-1"]
            assert (told["protocol"], told["tier"]) == ("mqtt", "none")

    play(scene)


def test_mosquitto_pub_publishes_lines_will_and_password_beside_it(devices: Devices) -> None:
    own = devices.device("press-1")

    async def scene() -> None:
        async with listening(devices) as running:
            more = (
                "-V", "mqttv5", "-q", "1", "-t", "press", "-l", "-u", "somebody", "-P", "secret",
                "-i", "another-name", "--will-topic", "w", "--will-payload", "bye", "-k", "10",
            )  # fmt: skip
            lines = b'{"a": 1, "b": true}\n{"a": 2}\n'
            assert await run(*pub(running, devices, own, *more), given=lines) == (0, b"")
            assert running.readings() == {"device:press-1/a": 2, "device:press-1/b": True}

    play(scene)


@pytest.mark.parametrize(
    ("more", "name"),
    [
        (("-q", "2", "-t", "a", "-m", "1"), "mqtt_qos"),
        (("-V", "mqttv31", "-t", "a", "-m", "1"), "mqtt_version"),
        (("-q", "1", "-t", "a", "-m", "hello"), "not_json"),
    ],
)
def test_what_is_not_taken_ends_the_session_and_is_counted(
    devices: Devices, more: tuple[str, ...], name: str
) -> None:
    own = devices.device("press-1")

    async def scene() -> None:
        async with listening(devices) as running:
            task = asyncio.create_task(run(*pub(running, devices, own, *more)))
            await until(lambda: name in running.desk.refused)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert running.readings() == {}

    play(scene)


@pytest.mark.needs("mosquitto_sub")
@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
def test_there_is_nothing_to_subscribe_to(devices: Devices, version: str) -> None:
    own = devices.device("press-1")

    async def scene() -> None:
        async with listening(devices) as running:
            line = pub(running, devices, own, "-V", version, "-t", "#")
            code, said = await run("mosquitto_sub", *line[1:])
            assert b"denied" in said, (code, said)

    play(scene)


def test_curl_hands_readings_over(devices: Devices) -> None:
    own = devices.device("press-1")

    async def scene() -> None:
        async with listening(devices) as running:
            data = ("-d", '{"temperature": 21.5, "state": "idle"}', "-w", "%{http_code}")
            assert await run(*curl(running, devices, own, "/readings", *data)) == (0, b"204")
            assert running.readings() == {
                "device:press-1/temperature": 21.5, "device:press-1/state": "idle",
            }  # fmt: skip
            code, said = await run(*curl(running, devices, own, "/readings", "-d", "[1]"))
            assert (code, json.loads(said)["refused"][:9]) == (0, "bad_value")
            code, said = await run(*curl(running, devices, own, "/other", "-w", "%{http_code}"))
            assert said.endswith(b"404")
            big = ("-d", "x" * 5000, "-w", "%{http_code}")
            code, said = await run(*curl(running, devices, own, "/readings", *big))
            assert said.endswith(b"413")

    play(scene)


def test_curl_reuses_a_connection(devices: Devices) -> None:
    own = devices.device("press-1")

    async def scene() -> None:
        async with listening(devices) as running:
            first = curl(running, devices, own, "/nonce")
            code, said = await run(*first, first[-1])
            assert code == 0
            nonces = [json.loads(line)["nonce"] for line in said.splitlines()]
            assert len(set(nonces)) == 2
            await running.settled()
            assert running.desk.listed()["press-1"]["sessions"] == 1

    play(scene)


CHALLENGES = {
    "named key": (True, GOOD, "affirming"),
    "TLS key": (False, GOOD, "warning"),
    "wrong firmware": (True, EVIL, "contraindicated"),
}


@pytest.mark.parametrize("case", CHALLENGES)
def test_a_challenge_is_answered_with_curl(devices: Devices, case: str) -> None:
    named, measured, tier = CHALLENGES[case]
    own = devices.device("press-1")
    key = ec.generate_private_key(ec.SECP256R1())
    if not named:
        loaded = serialization.load_pem_private_key(Path(own[1]).read_bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        key = loaded
    named_key = public_cose_key(key.public_key()) if named else b""
    settings = DeskSettings(known={"press-1": Known(named_key, frozenset((GOOD,)))})
    token = devices.folder / "token.cbor"

    async def scene() -> None:
        async with listening(devices, settings) as running:
            _, said = await run(*curl(running, devices, own, "/nonce"))
            nonce = bytes.fromhex(json.loads(said)["nonce"])
            token.write_bytes(eat({10: nonce, 2399: [{2: measured}]}, key=key))
            post = curl(running, devices, own, "/evidence", "--data-binary", f"@{token}")
            _, said = await run(*post)
            assert json.loads(said)["tier"] == tier
            assert running.desk.listed()["press-1"]["tier"] == tier
            _, said = await run(*post)
            assert json.loads(said)["refused"].startswith("no_challenge")
            assert running.codes() == (["EW-DEV-003"] if tier == "contraindicated" else [])

    play(scene)


def s_client(running: Running, devices: Devices, own: tuple[str, str] | None, *more: str) -> tuple[str, ...]:  # fmt: skip  # noqa: E501
    tls = () if own is None else ("-cert", own[0], "-key", own[1])
    where = ("-connect", f"127.0.0.1:{running.port}", "-CAfile", str(devices.ca_path))
    return ("openssl", "s_client", "-quiet", "-verify_quiet", *where, *tls, *more)


def test_s_client_is_a_device_as_soon_as_the_session_stands(devices: Devices) -> None:
    own = devices.device("press-1")

    async def scene() -> None:
        async with listening(devices) as running:
            request = b"GET /nonce HTTP/1.1\r\nConnection: close\r\n\r\n"
            code, said = await run(*s_client(running, devices, own, "-tls1_3"), given=request)
            assert b"edgewarden.device-nonce/1" in said, (code, said)
            task = asyncio.create_task(run(*s_client(running, devices, own, "-tls1_3")))
            await until(lambda: running.desk.listed()["press-1"]["sessions"] == 2)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    play(scene)


async def refused_certificate(running: Running, command: tuple[str, ...], name: str) -> None:
    await run(*command, given=b"GET /nonce HTTP/1.1\r\n\r\n")
    await until(lambda: running.listener.failed == {name: 1})
    assert running.desk.listed() == {}


BAD: dict[str, str] = {
    "none": "peer_did_not_return_a_certificate",
    "another CA": "certificate: unable to get local issuer certificate",
    "expired": "certificate: certificate has expired",
    "for servers": "certificate: unsuitable certificate purpose",
}


@pytest.mark.parametrize("case", BAD)
def test_a_certificate_that_does_not_hold_gets_no_session(
    devices: Devices, tmp_path: Path, case: str
) -> None:
    own: tuple[str, str] | None = None
    if case == "another CA":
        (tmp_path / "other").mkdir()
        own = Devices(tmp_path / "other", "another root").device("press-1")
    elif case == "expired":
        own = devices.device("press-1", ended=True)
    elif case == "for servers":
        own = devices.device("press-1", use=ExtendedKeyUsageOID.SERVER_AUTH)

    async def scene() -> None:
        async with listening(devices) as running:
            await refused_certificate(running, s_client(running, devices, own), BAD[case])

    play(scene)


def test_a_revoked_certificate_gets_no_session(devices: Devices) -> None:
    own = devices.device("press-1")
    cert = x509.load_pem_x509_certificate(Path(own[0]).read_bytes())
    revoked = x509.RevokedCertificateBuilder().serial_number(cert.serial_number)
    builder = x509.CertificateRevocationListBuilder().issuer_name(devices.ca.cert.subject)
    before = devices.ca.cert.not_valid_before_utc
    builder = builder.last_update(before).next_update(devices.ca.cert.not_valid_after_utc)
    builder = builder.add_revoked_certificate(revoked.revocation_date(before).build())
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(devices.ca.key.public_key())
    builder = builder.add_extension(authority, False).add_extension(x509.CRLNumber(1), False)
    crl = devices.folder / "crl.pem"
    signed = builder.sign(devices.ca.key, hashes.SHA256())
    crl.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    devices.crl = crl

    async def scene() -> None:
        async with listening(devices) as running:
            name = "certificate: certificate revoked"
            await refused_certificate(running, s_client(running, devices, own), name)
        async with listening(devices) as running:
            other = devices.device("press-2")
            assert (await run(*curl(running, devices, other, "/nonce")))[0] == 0

    play(scene)


def test_another_key_under_a_pinned_name_is_refused_and_a_finding(devices: Devices) -> None:
    old, new = devices.device("press-1"), None

    async def scene() -> None:
        async with listening(devices) as running:
            assert (await run(*curl(running, devices, old, "/nonce")))[0] == 0
            new = devices.device("press-1")
            data = ("-d", '{"a": 1}')
            assert (await run(*curl(running, devices, new, "/readings", *data)))[0] != 0
            assert running.codes() == ["EW-DEV-001"]
            assert running.readings() == {}
            assert running.desk.refused == {"other_key": 1}

    assert new is None
    play(scene)


def test_one_name_in_two_places_ends_both_and_stays_so(devices: Devices) -> None:
    """127.0.0.1 and ::1: an MQTT session that goes on, and a copy of its card beside it."""
    own = devices.device("press-1")

    async def scene() -> None:
        async with listening(devices, host="::") as running:
            line = ("--insecure", "-q", "1", "-t", "a", "-l")
            here = await lasting(*pub(running, devices, own, *line, host="127.0.0.1"))
            await say(here, b"1\n")
            await until(lambda: running.readings() == {"device:press-1/a": 1})
            there = await lasting(*pub(running, devices, own, *line, host="::1"))
            try:
                await say(there, b"2\n")
                await until(lambda: running.readings() == {"device:press-1/a": 2})
                await say(here, b"3\n")
                await until(lambda: running.codes() == ["EW-DEV-002"])
                await until(lambda: running.desk.where.sessions == {})
                assert running.readings() == {"device:press-1/a": 2}
            finally:
                for process in (here, there):
                    process.kill()
                    await process.communicate()
            assert (await run(*curl(running, devices, own, "/nonce")))[0] != 0
        async with listening(devices) as running:
            assert (await run(*curl(running, devices, own, "/nonce")))[0] != 0
            assert running.desk.listed()["press-1"]["state"] == "quarantined"

    play(scene)


async def lasting(*command: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )


async def say(process: asyncio.subprocess.Process, line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line)
    await process.stdin.drain()


def test_a_storm_of_strangers_leaves_a_known_device_its_session(devices: Devices) -> None:
    """Forty TLS clients without a certificate, over and over, from another address."""
    own = devices.device("press-1")

    async def scene() -> None:
        limits = Limits(per_source=2, per_minute=60, burst=10)
        async with listening(devices, limits=limits, host="::", handshake_s=60) as running:
            began_s = asyncio.get_running_loop().time()
            assert (await run(*curl(running, devices, own, "/nonce")))[0] == 0

            async def storm() -> None:
                while True:
                    try:
                        _, writer = await asyncio.open_connection("::1", running.port)
                        writer.write(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00")
                        writer.close()
                    except OSError:
                        pass
                    await asyncio.sleep(0.01)

            tasks = [asyncio.create_task(storm()) for _ in range(40)]
            try:
                await until(lambda: len(running.overruns) > 200)
                for _ in range(3):
                    assert (await run(*curl(running, devices, own, "/nonce")))[0] == 0
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            # What was there at once, and one a second: however long this machine took for it.
            lasted_s = asyncio.get_running_loop().time() - began_s
            assert sum(running.listener.failed.values()) <= limits.burst + lasted_s + 1
            assert set(running.overruns) <= {"source_busy", "source_rate"}

    play(scene)


def test_the_commands_of_the_page_make_what_the_listener_takes(tmp_path: Path) -> None:
    """docs/devices.md, Setting it up, word for word; then curl as it stands there."""
    page = (ROOT / "docs" / "devices.md").read_text()
    block = page[page.index("With openssl:") : page.index("On the gateway")]
    lines = [line[4:] for line in block.splitlines() if line.startswith("    ")]
    assert sum(line.startswith("openssl") for line in lines) == 5
    made = Devices.__new__(Devices)
    made.folder, made.ca_path, made.crl = tmp_path, tmp_path / "ca.pem", None
    made.server = (str(tmp_path / "server.pem"), str(tmp_path / "server.key"))

    async def scene() -> None:
        code, said = await run("bash", "-ec", f"cd {tmp_path}\n" + "\n".join(lines))
        assert code == 0, said
        own = (str(tmp_path / "press-1.pem"), str(tmp_path / "press-1.key"))
        async with listening(made) as running:
            line = list(curl(running, made, own, "/readings", "-d", '{"temperature": 21.5}'))
            line[-1] = "https://gw-7.local:8883/readings"
            to = ("--connect-to", f"gw-7.local:8883:127.0.0.1:{running.port}")
            code, said = await run(*line[:-1], *to, line[-1])
            assert code == 0, said
            assert running.readings() == {"device:press-1/temperature": 21.5}

    play(scene)
