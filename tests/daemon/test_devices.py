"""[downstream] put together: what keeps it from listening is named, retried, and ends nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from edgewarden.daemon import devices as module
from edgewarden.daemon.behind import Nobody, behind_of
from edgewarden.daemon.devices import Behind
from edgewarden.downstream.lineage import Devices as Pins
from edgewarden.downstream.registry import FOLDER, NAME, Registry
from edgewarden.errors import HardwareFault
from edgewarden.judge.doctor import judge_devices
from edgewarden.settings.downstream import Downstream, DownstreamDevice
from edgewarden.wire.control import SHAPES, Command, check_shape
from edgewarden.wire.facts import Event, Reading
from hw.rigs.ports import free_port
from tests.downstream.world import Devices, LoopClock
from tests.fakes.clock import FakeRandomness
from tests.waiting import until


class Times(LoopClock):
    """A clock that the system's own suits."""

    def verify_at(self) -> int | None:
        return None


class Bench:
    """A Behind on files of a test."""

    def __init__(self, folder: Path, **changes: object) -> None:
        self.folder = folder
        self.devices = Devices(folder)
        cert, key = self.devices.server
        port = free_port()
        wanted: dict[str, object] = {
            "listen": "127.0.0.1", "port": port, "ca": str(self.devices.ca_path),
            "certificate": cert, "key": key, **changes,
        }  # fmt: skip
        self.port = port
        self.facts: list[Event | Reading] = []
        self.fault: HardwareFault | None = None
        self.behind = Behind(
            Downstream(**wanted),  # type: ignore[arg-type]
            folder / "state", self.load, self.facts.append, Times(), FakeRandomness(),
        )  # fmt: skip

    def load(self) -> None:
        if self.fault is not None:
            raise self.fault

    def listener(self) -> dict[str, object]:
        body = {"device": "g", **self.behind.snapshot()}
        check_shape(body, SHAPES[Command.DEVICES])
        listener = body["listener"]
        assert isinstance(listener, dict)
        return listener

    def codes(self) -> list[str]:
        return [fact.code for fact in self.facts if isinstance(fact, Event)]


@contextlib.asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[None]:
    task = asyncio.create_task(bench.behind.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.05)
    monkeypatch.setattr(module, "REFRESH_S", 0.05)
    monkeypatch.setattr(module, "TICK_S", 0.05)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 120))  # type: ignore[arg-type]


def replace(path: Path, data: bytes) -> None:
    """At once, as it is to be done: a thread of the listener reads it at any moment."""
    fresh = path.with_name("fresh")
    fresh.write_bytes(data)
    fresh.rename(path)


def test_off_is_off(tmp_path: Path) -> None:
    bench = Bench(tmp_path, listen=None)

    async def scene() -> None:
        await bench.behind.run()
        assert bench.listener()["state"] == "off"
        assert bench.behind.submodules() is None
        assert judge_devices(bench.behind.snapshot()) == []
        assert bench.facts == []

    play(scene)


def test_who_sets_nothing_gets_the_strict_listener_or_none(tmp_path: Path) -> None:
    """The defaults: off; once on, TLS 1.3 alone and a certificate of everybody."""
    assert Downstream().listen is None
    context = Bench(tmp_path).behind._new_context()
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_it_listens_and_says_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def scene() -> None:
        async with running(bench):
            await until(lambda: bench.listener()["state"] == "listening")
            assert bench.behind.submodules() == {}
            (rung,) = judge_devices(bench.behind.snapshot())
            assert (rung.state, rung.area) == ("ok", "agent")

    play(scene)


def refused(bench: Bench, code: str, mend: Callable[[], object]) -> None:
    """Named by status, doctor and one finding while it is retried; it listens once mended."""

    async def scene() -> None:
        async with running(bench):
            await until(lambda: bench.listener()["code"] == code)
            await asyncio.sleep(0.2)
            listener = bench.listener()
            assert (listener["state"], listener["code"]) == ("refused", code)
            assert listener["why"]
            assert listener["next"]
            (rung,) = judge_devices(bench.behind.snapshot())
            assert (rung.state, rung.code) == ("failing", code)
            assert bench.codes() == [code]
            mend()
            await until(lambda: bench.listener()["state"] == "listening")
            assert bench.listener()["code"] == ""

    play(scene)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    ca = bench.devices.ca_path
    moved = ca.rename(ca.with_name("moved.pem"))
    refused(bench, "EW-DEV-005", lambda: moved.rename(ca))


def test_an_address_that_somebody_has_is_named(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    other = socket.create_server(("127.0.0.1", bench.port))
    refused(bench, "EW-DEV-010", other.close)


def test_who_cannot_listen_says_nothing_anew_upstream(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    known = Registry(tmp_path / "state")
    known.load()
    known.save(Pins().pinned("press-1", b"a" * 32, 1))
    other = socket.create_server(("127.0.0.1", bench.port))

    async def scene() -> None:
        async with running(bench):
            await until(lambda: bench.listener()["code"] == "EW-DEV-010")
            await asyncio.sleep(0.3)
            assert len(bench.facts) == 1
            other.close()
            await until(lambda: bench.listener()["state"] == "listening")
            assert len(bench.facts) == 2
            assert list(bench.behind.submodules() or {}) == ["press-1"]

    play(scene)


def test_refused_handshakes_are_told_once_a_minute(tmp_path: Path) -> None:
    bench = Bench(tmp_path, handshakes_burst=1)

    async def scene() -> None:
        async with running(bench):
            await until(lambda: bench.listener()["state"] == "listening")
            while sum(dict(bench.listener()["refused"]).values()) < 18:  # type: ignore[call-overload]
                _, writer = await asyncio.open_connection("127.0.0.1", bench.port)
                writer.close()
            assert 1 <= bench.codes().count("EW-DEV-004") <= 2

    play(scene)


def test_pins_that_cannot_be_believed_let_nobody_in(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    path = tmp_path / "state" / FOLDER / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    refused(bench, "EW-DEV-007", path.unlink)


def test_a_tpm_that_does_not_answer_is_named(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.fault = HardwareFault("no TPM", code="EW-ID-032", next_step="look")
    refused(bench, "EW-ID-032", lambda: setattr(bench, "fault", None))


def test_a_key_that_does_not_sign_here_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tpm2-openssl 1.1.1 does is in tests/system/test_tpm_devices.py."""
    bench = Bench(tmp_path)
    real = module.prove_server

    def no(context: object) -> None:
        raise module.HardwareFault("it does not sign", code="EW-DEV-006", next_step="see")

    monkeypatch.setattr(module, "prove_server", no)
    refused(bench, "EW-DEV-006", lambda: monkeypatch.setattr(module, "prove_server", real))


def test_a_device_with_a_key_that_is_none_is_named(tmp_path: Path) -> None:
    pem = "-----BEGIN PUBLIC KEY-----\n" + "A" * 120 + "\n-----END PUBLIC KEY-----"
    bench = Bench(tmp_path, device=(DownstreamDevice(name="press-1", attestation_key=pem),))

    async def scene() -> None:
        async with running(bench):
            await until(lambda: bench.listener()["code"] == "EW-DEV-005")
            assert "attestation key" in str(bench.listener()["why"])

    play(scene)


def test_a_certificate_that_no_longer_fits_leaves_the_one_in_use(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    cert = Path(bench.devices.server[0])
    was = cert.read_bytes()

    async def scene() -> None:
        async with running(bench):
            await until(lambda: bench.listener()["state"] == "listening")
            replace(cert, b"x")
            await until(lambda: bench.listener()["code"] == "EW-DEV-005")
            assert bench.listener()["state"] == "listening"
            (rung,) = judge_devices(bench.behind.snapshot())
            assert (rung.state, rung.code) == ("degraded", "EW-DEV-005")
            _, writer = await asyncio.open_connection("127.0.0.1", bench.port)
            writer.close()
            replace(cert, was)
            await until(lambda: bench.listener()["code"] == "")

    play(scene)


def test_without_an_address_nobody_says_what_a_listener_that_is_off_would(tmp_path: Path) -> None:
    rest = Downstream(), tmp_path, lambda: None, lambda _: None, Times(), FakeRandomness()
    none, off = behind_of(*rest), Behind(*rest)
    assert isinstance(none, Nobody)
    assert none.snapshot() == off.snapshot()
    assert none.submodules() is off.submodules()
    asyncio.run(none.run())


def test_with_an_address_there_is_a_listener(tmp_path: Path) -> None:
    wanted = Downstream(listen="127.0.0.1")
    rest = tmp_path, lambda: None, lambda _: None, Times(), FakeRandomness()
    assert isinstance(behind_of(wanted, *rest), Behind)


def crl_of(bench: Bench, ends: timedelta) -> bytes:
    """A list without a name on it, of a week that ended so long after now."""
    ca, end = bench.devices.ca, datetime.now(UTC) + ends
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    made = (
        x509.CertificateRevocationListBuilder(ca.cert.subject)
        .last_update(end - timedelta(days=7))
        .next_update(end)
        .add_extension(authority, critical=False)
        .add_extension(x509.CRLNumber(1), critical=False)
        .sign(ca.key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


def test_a_list_of_revoked_ones_that_has_ended_is_named_until_there_is_another(
    tmp_path: Path,
) -> None:
    """It keeps every device out. Nothing was told of it: the listener was there, and well."""
    crl = tmp_path / "crl.pem"
    bench = Bench(tmp_path, crl=str(crl))
    crl.write_bytes(crl_of(bench, timedelta(days=-1)))
    client = ssl.create_default_context(cafile=str(bench.devices.ca_path))
    client.load_cert_chain(*bench.devices.device("press-1"))
    client.check_hostname = False

    async def comes() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.port, ssl=client)
        try:
            writer.write(b"GET /nonce HTTP/1.1\r\nHost: gw\r\n\r\n")
            return await reader.readline()
        except OSError:
            return b""
        finally:
            writer.close()

    async def scene() -> None:
        async with running(bench):
            await until(lambda: bench.listener()["state"] == "listening")
            assert await comes() == b""
            await until(lambda: bench.codes() == ["EW-DEV-013"])
            assert await comes() == b""
            await asyncio.sleep(0.3)  # some looks at the files
            assert bench.codes() == ["EW-DEV-013"]
            (rung,) = judge_devices(bench.behind.snapshot())
            assert (rung.state, rung.code) == ("degraded", "EW-DEV-013")
            assert str(crl) in rung.next_step
            replace(crl, crl_of(bench, timedelta(days=1)))
            await until(lambda: bench.listener()["code"] == "")
            assert (await comes()).startswith(b"HTTP/1.1 200")

    play(scene)


@pytest.mark.parametrize("kind", ["ours", "named"])
def test_a_fault_in_the_midst_of_listening_never_ends_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Of a task group it comes as an ExceptionGroup: no OSError, and no error of ours."""
    bench, tick = Bench(tmp_path), module.Desk.tick
    fault = ValueError("planted") if kind == "ours" else HardwareFault("full", code="EW-DEV-008")

    async def broken(desk: module.Desk) -> None:
        raise fault

    monkeypatch.setattr(module.Desk, "tick", broken)
    code = "EW-DEV-012" if kind == "ours" else "EW-DEV-008"

    async def scene() -> None:
        async with running(bench):
            await until(lambda: bench.codes() == [code])
            monkeypatch.setattr(module.Desk, "tick", tick)
            await until(lambda: bench.listener()["state"] == "listening")
            assert bench.codes() == [code]

    play(scene)


def test_another_list_of_revoked_ones_ends_sessions_and_the_same_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, crl=str(tmp_path / "crl.pem"))
    ended: list[int] = []
    monkeypatch.setattr(module.Listener, "end_all", lambda listener: ended.append(1))
    made = module.Behind._new_context
    without = bench.behind._wanted
    crl = tmp_path / "crl.pem"
    crl.write_bytes(b"one")

    def new_context(behind: Behind) -> object:
        behind._wanted = module.Downstream(**{
            f: getattr(without, f) for f in without.__dataclass_fields__ if f != "crl"
        })  # fmt: skip
        try:
            return made(behind)
        finally:
            behind._wanted = without

    monkeypatch.setattr(module.Behind, "_new_context", new_context)

    async def scene() -> None:
        async with running(bench):
            await until(lambda: bench.listener()["state"] == "listening")
            await asyncio.sleep(0.3)
            assert ended == []
            replace(crl, b"two")
            await until(lambda: ended == [1])
            await asyncio.sleep(0.3)
            assert ended == [1]

    play(scene)
