"""The listener's own bounds: before TLS, during the handshake, and until the first byte.

What real clients make of it is in tests/system/test_devices.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from edgewarden.downstream import listener as module
from edgewarden.downstream.budget import Limits
from edgewarden.downstream.shown import DeskSettings
from edgewarden.errors import TrustFault
from edgewarden.trust.tls import device_context, prove_server
from tests.downstream.world import PREFIX, Devices, Running, listening
from tests.fakes.pki import Authority, lenient
from tests.waiting import until

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def client(devices: Devices, own: tuple[str, str] | None, *, most: ssl.TLSVersion | None = None) -> ssl.SSLContext:  # fmt: skip  # noqa: E501
    context = ssl.create_default_context(cafile=str(devices.ca_path))
    if own is not None:
        context.load_cert_chain(*own)
    if most is not None:
        context.maximum_version = most
    return context


async def dial(running: Running, context: ssl.SSLContext | None = None) -> Streams:
    name = "localhost" if context else None
    return await asyncio.open_connection(
        "127.0.0.1", running.port, ssl=context, server_hostname=name
    )


async def hung_up(streams: Streams) -> bytes:
    """What came until the other end closed."""
    try:
        async with asyncio.timeout(100):
            return await streams[0].read()
    except OSError:
        return b""
    finally:
        streams[1].close()


def play(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 120))  # type: ignore[arg-type]


def test_a_stranger_holds_no_slot_longer_than_a_handshake_may_take(tmp_path: Path) -> None:
    devices = Devices(tmp_path)

    async def scene() -> None:
        async with listening(devices, handshake_s=0.3) as running:
            silent = await dial(running)
            assert await hung_up(silent) == b""
            await running.settled()
            assert running.listener.failed == {"handshake_timeout": 1}
            assert running.budget._busy == {}

    play(scene)


def test_handshakes_of_one_source_are_bounded_before_tls(tmp_path: Path) -> None:
    devices = Devices(tmp_path)

    async def scene() -> None:
        async with listening(devices, handshake_s=30) as running:
            held = [await dial(running) for _ in range(2)]
            await until(lambda: running.budget._busy == {"127.0.0.1": 2})
            assert await hung_up(await dial(running)) == b""
            assert running.overruns == ["source_busy"]
            assert running.listener.failed == {}
            for _, writer in held:
                writer.close()

    play(scene)


def test_a_device_gets_in_while_strangers_hold_their_half(tmp_path: Path) -> None:
    """Known by an earlier session; every slot of the strangers is taken by silent connections."""
    devices = Devices(tmp_path)
    press = devices.device("press-1")

    async def scene() -> None:
        limits = Limits(handshakes=4, per_source=9, burst=100)
        async with listening(devices, limits=limits, handshake_s=30, host="::") as running:
            await get(running, client(devices, press), "/nonce")
            held = [
                await asyncio.open_connection("::1", running.port) for _ in range(3)
            ]  # one source by the /64 of ::1; the device is 127.0.0.1
            await until(lambda: running.overruns == ["busy"])
            assert running.budget._busy == {"::/64": 2}
            assert b" 200 " in await get(running, client(devices, press), "/nonce")
            for _, writer in held:
                writer.close()

    play(scene)


async def get(running: Running, context: ssl.SSLContext, path: str) -> bytes:
    streams = await dial(running, context)
    streams[1].write(f"GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
    return await hung_up(streams)


def test_sessions_are_bounded(tmp_path: Path) -> None:
    devices = Devices(tmp_path)
    context = client(devices, devices.device("press-1"))

    async def scene() -> None:
        async with listening(devices, limits=Limits(sessions=1)) as running:
            first = await dial(running, context)
            await until(lambda: running.budget.sessions == 1)
            assert await hung_up(await dial(running)) == b""
            assert running.overruns == ["too_many_sessions"]
            first[1].close()
            await running.settled()
            assert b" 200 " in await get(running, context, "/nonce")

    play(scene)


def test_who_says_nothing_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_BYTE_S", 0.2)
    devices = Devices(tmp_path)

    async def scene() -> None:
        async with listening(devices) as running:
            assert await hung_up(await dial(running, client(devices, devices.device("a")))) == b""
            await running.settled()
            assert running.desk.where.sessions == {}
            assert running.desk.listed()["a"]["sessions"] == 1

    play(scene)


@pytest.mark.parametrize("first", [b"\x16\x03\x01", b"\x00", b"{", b"\x30\x03", b"5"])
def test_another_protocol_is_ended(tmp_path: Path, first: bytes) -> None:
    devices = Devices(tmp_path)

    async def scene() -> None:
        async with listening(devices) as running:
            streams = await dial(running, client(devices, devices.device("a")))
            streams[1].write(first)
            assert await hung_up(streams) == b""
            await running.settled()
            assert running.listener.failed == {"unknown_protocol": 1}

    play(scene)


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "foreign name": ({"uri": "urn:somebody:press-1"}, "foreign_name"),
    "two names": ({"uri": f"{PREFIX}a {PREFIX}b"}, "two_names"),
    "not listed": ({}, "not_listed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_certificate_of_our_ca_is_not_enough(tmp_path: Path, case: str) -> None:
    devices = Devices(tmp_path)
    given, name = REFUSED[case]
    own = devices.device("press-1", **given)  # type: ignore[arg-type]

    async def scene() -> None:
        settings = DeskSettings(frozenset(("press-2",)))
        async with listening(devices, settings) as running:
            assert await get(running, client(devices, own), "/nonce") == b""
            await running.settled()
            assert running.listener.failed == {name: 1}
            assert running.desk.listed() == {}

    play(scene)


def test_an_old_version_of_tls_is_spoken_only_where_it_is_allowed(tmp_path: Path) -> None:
    devices = Devices(tmp_path)
    context = client(devices, devices.device("press-1"), most=ssl.TLSVersion.TLSv1_2)

    async def scene() -> None:
        async with listening(devices) as running:
            # asyncio ends a failed handshake without an alert
            with pytest.raises((ConnectionResetError, ssl.SSLError)):
                await dial(running, context)
            await running.settled()
            assert running.listener.failed == {"unsupported_protocol": 1}
        async with listening(devices, least="1.2") as running:
            assert b" 200 " in await get(running, context, "/nonce")

    play(scene)


def test_tls_1_2_is_spoken_with_aead_alone(tmp_path: Path) -> None:
    devices = Devices(tmp_path)
    context = client(devices, devices.device("press-1"), most=ssl.TLSVersion.TLSv1_2)

    async def scene() -> None:
        async with listening(devices, least="1.2") as running:
            context.set_ciphers("ECDHE-ECDSA-AES128-SHA256")
            with pytest.raises((ConnectionResetError, ssl.SSLError)):
                await dial(running, context)
            await running.settled()
            assert running.listener.failed == {"no_shared_cipher": 1}
            context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
            assert b" 200 " in await get(running, context, "/nonce")

    play(scene)


def test_a_certificate_that_only_a_lenient_verifier_takes_gets_no_session(tmp_path: Path) -> None:
    devices = Devices(tmp_path)
    own = devices.device("press-1")
    whole = x509.load_pem_x509_certificate(Path(own[0]).read_bytes())
    made = lenient(whole, devices.ca.key)
    Path(own[0]).write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def loosen(context: ssl.SSLContext) -> None:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT

    async def scene() -> None:
        async with listening(devices, loosen=loosen) as running:
            assert b" 200 " in await get(running, client(devices, own), "/nonce")
        async with listening(devices) as running:
            assert await get(running, client(devices, own), "/nonce") == b""
            await running.settled()
            name = "certificate: Missing Authority Key Identifier"
            assert running.listener.failed == {name: 1}

    play(scene)


def test_nothing_is_resumed(tmp_path: Path) -> None:
    """Each session shows its certificate anew; a resumed one would show none to a new list."""
    devices = Devices(tmp_path)
    own = devices.device("press-1")
    for most in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        ours = client(devices, own, most=most)
        theirs = device_context(devices.files("1.2"))
        session = None
        for _ in range(2):
            to_us, to_them = ssl.MemoryBIO(), ssl.MemoryBIO()
            one = ours.wrap_bio(to_us, to_them, server_hostname="localhost", session=session)
            other = theirs.wrap_bio(to_them, to_us, server_side=True)
            for _ in range(4):
                for end in (one, other):
                    try:
                        end.do_handshake()
                    except ssl.SSLWantReadError:
                        continue
            assert not other.session_reused
            session = one.session


def test_a_revoked_ca_in_between_lets_none_of_its_devices_in(tmp_path: Path) -> None:
    """The root has taken it back: what it signed is nobody's, whatever its own list says."""
    devices, between = Devices(tmp_path), Authority("between")
    root, day, now = devices.ca, timedelta(days=1), datetime.now(UTC)

    def signed(ca: Authority, path_length: int) -> x509.Certificate:
        subject, key = ca.cert.subject, ca.key.public_key()
        made = x509.CertificateBuilder(root.cert.subject, subject, key, 1 + path_length)
        made = made.not_valid_before(now - day).not_valid_after(now + day)
        made = made.add_extension(x509.BasicConstraints(True, path_length), critical=True)
        for kind in (x509.KeyUsage, x509.SubjectKeyIdentifier):
            known = ca.cert.extensions.get_extension_for_class(kind)
            made = made.add_extension(known.value, known.critical)
        above = x509.AuthorityKeyIdentifier.from_issuer_public_key(root.key.public_key())
        return made.add_extension(above, critical=False).sign(root.key, hashes.SHA256())

    devices.ca_path.write_bytes(signed(root, 1).public_bytes(serialization.Encoding.PEM))
    middle = signed(between, 0)
    devices.ca = between
    own = devices.device("press-1")
    with Path(own[0]).open("ab") as chain:
        chain.write(middle.public_bytes(serialization.Encoding.PEM))

    def listed(ca: Authority, *gone: x509.Certificate) -> bytes:
        key = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
        made = x509.CertificateRevocationListBuilder(ca.cert.subject, now - day, now + day)
        made = made.add_extension(key, critical=False).add_extension(x509.CRLNumber(1), False)
        for one in gone:
            revoked = x509.RevokedCertificateBuilder(one.serial_number, now - day).build()
            made = made.add_revoked_certificate(revoked)
        return made.sign(ca.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    devices.crl = tmp_path / "crl.pem"
    for lists, why in (
        (listed(root) + listed(between), ""),
        (listed(root, middle) + listed(between), "certificate revoked"),
        (listed(between), "unable to get certificate CRL"),
    ):
        devices.crl.write_bytes(lists)
        assert refusal(devices, client(devices, own)) == why


def refusal(devices: Devices, ours: ssl.SSLContext) -> str:
    """Why the listener's context refuses a client; "" when it does not."""
    to_us, to_them = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = ours.wrap_bio(to_us, to_them, server_hostname="localhost")
    other = device_context(devices.files()).wrap_bio(to_them, to_us, server_side=True)
    for _ in range(4):
        for end in (one, other):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as fault:
                return fault.verify_message
    assert other.getpeercert()
    return ""


@pytest.mark.parametrize("fault", ["missing", "foreign key", "garbled ca", "password"])
def test_files_that_do_not_fit_are_named(tmp_path: Path, fault: str) -> None:
    devices = Devices(tmp_path)
    files = devices.files()
    if fault == "missing":
        files.certificate.unlink()
    elif fault == "foreign key":
        files.key.write_bytes(Authority().server().key_pem)
    elif fault == "garbled ca":
        files.ca.write_bytes(b"x")
    else:
        files.key.write_bytes(LOCKED)
    with pytest.raises(TrustFault) as refused:
        device_context(files)
    assert refused.value.code == "EW-DEV-005"


LOCKED = b"""-----BEGIN EC PRIVATE KEY-----
Proc-Type: 4,ENCRYPTED
DEK-Info: AES-128-CBC,00000000000000000000000000000000

AAAA
-----END EC PRIVATE KEY-----
"""


def test_a_listener_with_a_file_key_is_proven(tmp_path: Path) -> None:
    prove_server(device_context(Devices(tmp_path).files()))


def test_a_flood_of_connections_is_looked_at_so_often_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ACCEPTS_PER_S", 20)
    devices = Devices(tmp_path)

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        async with listening(devices, handshake_s=30) as running:
            began, dialled = loop.time(), []
            try:
                while len(dialled) < 35 + 20 * (loop.time() - began):  # faster than it looks
                    dialled.append((await dial(running))[1])
                    await asyncio.sleep(0.005)
                    assert len(dialled) < 1000, "no machine dials so slowly"
                looked_at = len(running.overruns) + running.budget._busy.get("127.0.0.1", 0)
                assert 0 < looked_at <= 20 + 20 * (loop.time() - began) + 1
            finally:
                for writer in dialled:
                    writer.close()

    play(scene)


def test_a_session_ends_after_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SESSION_S", 3.0)  # its CONNECT must come before
    devices = Devices(tmp_path)

    async def scene() -> None:
        async with listening(devices) as running:
            streams = await dial(running, client(devices, devices.device("a")))
            streams[1].write(b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02me")
            assert await hung_up(streams) == b"\x20\x02\x00\x00"
            await running.settled()
            assert running.desk.where.sessions == {}

    play(scene)


def test_a_fault_of_ours_ends_one_connection_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    devices = Devices(tmp_path)
    context = client(devices, devices.device("a"))

    async def scene() -> None:
        async with listening(devices) as running:
            with monkeypatch.context() as patch:
                patch.setattr(running.desk, "nonce", lambda number: 1 / 0)
                assert await get(running, context, "/nonce") == b""
                await running.settled()
            assert running.listener.failed == {"fault": 1}
            assert b" 200 " in await get(running, context, "/nonce")

    play(scene)
    assert "ZeroDivisionError" in capsys.readouterr().err


HELLO = b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02me"


def test_a_client_that_says_goodbye_is_hung_up_on(tmp_path: Path) -> None:
    devices = Devices(tmp_path)

    async def scene() -> None:
        async with listening(devices) as running:
            streams = await dial(running, client(devices, devices.device("a")))
            streams[1].write(HELLO + b"\xe0\x00")
            assert await hung_up(streams) == b"\x20\x02\x00\x00"
            await running.settled()
            assert running.desk.refused == {}

    play(scene)


def test_a_client_that_goes_without_a_word_is_forgotten(tmp_path: Path) -> None:
    devices = Devices(tmp_path)

    async def scene() -> None:
        async with listening(devices) as running:
            streams = await dial(running, client(devices, devices.device("a")))
            streams[1].write(HELLO)
            assert await streams[0].readexactly(4) == b"\x20\x02\x00\x00"
            streams[1].close()
            await running.settled()
            assert running.desk.where.sessions == {}
            assert running.budget.sessions == 0

    play(scene)


@pytest.mark.parametrize("shows", [True, False])
def test_a_certificate_that_nobody_verified_names_nobody(tmp_path: Path, shows: bool) -> None:
    """As if somebody had loosened the context: the listener itself still lets nobody in."""
    devices = Devices(tmp_path)
    own = devices.device("a") if shows else None

    def loosen(context: ssl.SSLContext) -> None:
        context.verify_mode = ssl.CERT_NONE

    async def scene() -> None:
        async with listening(devices, loosen=loosen) as running:
            assert await get(running, client(devices, own), "/nonce") == b""
            await running.settled()
            assert running.listener.failed == {"no_certificate": 1}

    play(scene)


def test_a_resumed_session_names_nobody(tmp_path: Path) -> None:
    """As if tickets were given out: what is resumed was verified at another time."""
    devices = Devices(tmp_path)
    context = client(devices, devices.device("a"), most=ssl.TLSVersion.TLSv1_2)

    def loosen(theirs: ssl.SSLContext) -> None:
        theirs.options &= ~ssl.OP_NO_TICKET

    def visit(port: int, session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bytes]:
        with (
            socket.create_connection(("127.0.0.1", port), 60) as plain,
            context.wrap_socket(plain, server_hostname="localhost", session=session) as tls,
        ):
            try:
                tls.sendall(b"GET /nonce HTTP/1.1\r\nConnection: close\r\n\r\n")
                return tls.session, tls.recv(1000)
            except ConnectionError:  # it may have hung up before we asked
                return tls.session, b""

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        async with listening(devices, least="1.2", loosen=loosen) as running:
            session, said = await loop.run_in_executor(None, visit, running.port, None)
            assert b" 200 " in said
            _, said = await loop.run_in_executor(None, visit, running.port, session)
            assert said == b""
            await running.settled()
            assert running.listener.failed == {"no_certificate": 1}

    play(scene)


@pytest.mark.parametrize("protocol", ["mqtt", "http"])
def test_a_known_device_takes_no_core(tmp_path: Path, protocol: str) -> None:
    """PINGREQ, or requests that are refused, as fast as they go: they end its session, by name."""
    devices = Devices(tmp_path)
    own = devices.device("press-1")
    first, again = b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02p1", b"\xc0\x00" * 500
    if protocol == "http":
        first, again = b"", b"POST /readings HTTP/1.1\r\nContent-Length: 1\r\n\r\nx" * 20

    async def scene() -> None:
        async with listening(devices) as running:
            reader, writer = await dial(running, client(devices, own))
            writer.write(first)
            with contextlib.suppress(OSError):
                for _ in range(100):
                    writer.write(again)
                    await writer.drain()
            await hung_up((reader, writer))
            await running.settled()
            assert running.desk.refused["too_many_requests"] == 1

    play(scene)


def test_a_request_in_more_pieces_than_it_has_bytes_of_sense_ends_its_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = Devices(tmp_path)
    own = devices.device("press-1")
    monkeypatch.setattr(module, "PIECES_PER_S", 2)

    async def scene() -> None:
        async with listening(devices) as running:
            reader, writer = await dial(running, client(devices, own))
            with contextlib.suppress(OSError):
                for _ in range(100):
                    writer.write(b"G")
                    await writer.drain()
                    await asyncio.sleep(0.005)
            await hung_up((reader, writer))
            await running.settled()
            assert running.listener.failed["too_many_pieces"] >= 1

    play(scene)


def test_another_list_of_revoked_ones_ends_sessions_also_those_on_their_way(
    tmp_path: Path,
) -> None:
    devices = Devices(tmp_path)
    own = devices.device("press-1")

    async def scene() -> None:
        async with listening(devices) as running:
            there = await dial(running, client(devices, own))
            await until(lambda: len(running.listener._ends) == 1)
            running.listener.end_all()
            assert await hung_up(there) == b""
            await running.settled()
            half = await dial(running)  # before its handshake the list changes again
            await until(lambda: len(running.listener._tasks) == 1)
            running.listener.end_all()
            await half[1].start_tls(client(devices, own), server_hostname="localhost")
            assert await hung_up(half) == b""
            await running.settled()
            assert running.listener.failed == {"other_list": 1}

    play(scene)
