"""Networks as they are, with real peers: proxies, a shared port 443, WebSockets, no IPv4.

Whatever the way, TLS ends at the broker and the broker's name is what is verified: an impostor
behind a proxy is an impostor.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from edgewarden.link.dial import Route
from edgewarden.link.tunnel import Proxy
from hw.rigs.ports import free_port
from tests.broker import Broker, Pki, Subscriber
from tests.system.proxies import alpn_switch, microsocks, tinyproxy
from tests.system.uplinks import DEVICE, FAST, Gateway
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("mosquitto")

WAIT_S = 60.0
ROOT = Path(__file__).parents[2]
SECRET = ("site", "s3cret-of-the-site")


@pytest.fixture
def broker(tmp_path: Path, pki: Pki) -> Iterator[Broker]:
    one = Broker(tmp_path / "broker", pki)
    one.websocket_port = free_port()  # type: ignore[attr-defined]
    one.listen_too(one.websocket_port, "protocol websockets")  # type: ignore[attr-defined]
    with one:
        yield one


def gateway(tmp_path: Path, port: int, pki: Pki, route: Route) -> Gateway:
    return Gateway(
        tmp_path / "state",
        port,
        lambda: pki.context(pki.folder / f"{DEVICE}.pem", pki.folder / f"{DEVICE}.key"),
        replace(FAST, route=route, keepalive_s=30),  # nothing here waits for its end
    )


def delivers(tmp_path: Path, port: int, broker: Broker, pki: Pki, route: Route) -> None:
    """Everything durable arrives over this route, a long record and a nonce among it."""
    fleet = pki.context(pki.folder / "fleet.pem", pki.folder / "fleet.key")
    with (
        Subscriber(broker.port, fleet, ["ew/1/#"]) as heard,
        gateway(tmp_path, port, pki, route) as one,
    ):
        one.write(alarms=30, audits=10, bulk=3)
        one.write(audits=2, size=30_000)
        wait_until(one.drained, WAIT_S)
        durable = sum(s.durable for s in one.storage.state().values())
        wait_until(lambda: len({p for t, p, _ in heard.messages if "/r/" in t}) == durable, WAIT_S)
        heard.client.publish(f"ew/1/main/{DEVICE}/e/nonce", b"n" * 8000, qos=1)
        wait_until(lambda: one.nonces == [b"n" * 8000], WAIT_S)
        assert one.snapshot().reconnects == 0
        assert one.alarms() == []


def proxy(kind: Literal["http", "socks5"], port: int, who: tuple[str, str] | None = None) -> Route:
    return Route(Proxy(kind, "localhost", port, lambda: who))


@contextlib.contextmanager
def site_proxy(
    kind: str, tmp_path: Path, allowed: int, who: tuple[str, str] | None = None
) -> Iterator[tuple[int, Path]]:
    made = tinyproxy(tmp_path, allowed, who) if kind == "http" else microsocks(tmp_path, who)
    with made as found:
        yield found


@pytest.mark.needs("tinyproxy", "microsocks")
@pytest.mark.parametrize("kind", ["http", "socks5"])
@pytest.mark.parametrize("who", [None, SECRET], ids=["open", "with credentials"])
def test_through_a_sites_proxy(
    tmp_path: Path,
    broker: Broker,
    pki: Pki,
    kind: Literal["http", "socks5"],
    who: tuple[str, str] | None,
) -> None:
    with site_proxy(kind, tmp_path, broker.port, who) as (port, _):
        delivers(tmp_path, broker.port, broker, pki, proxy(kind, port, who))


@pytest.mark.needs("tinyproxy", "microsocks")
@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_a_proxy_that_refuses_is_named_and_its_secret_is_not(
    tmp_path: Path, broker: Broker, pki: Pki, kind: Literal["http", "socks5"]
) -> None:
    wrong = ("site", "wr0ng-secret")
    with (
        site_proxy(kind, tmp_path, broker.port, SECRET) as (port, _),
        gateway(tmp_path, broker.port, pki, proxy(kind, port, wrong)) as one,
    ):
        wait_until(lambda: one.snapshot().fault is not None, WAIT_S)
        fault = one.snapshot().fault
        assert fault is not None
        assert fault.code == "EW-NET-014"
        assert "refuses the credentials" in fault.text
        said = repr(fault) + repr(one.uplink._settings) + repr(one.events)
        assert "wr0ng" not in said
        assert one.alarms() == []


@pytest.mark.needs("tinyproxy")
def test_an_impostor_behind_a_proxy_is_an_impostor(tmp_path: Path, pki: Pki) -> None:
    """The proxy leads to somebody else: TLS with the broker's name says so."""
    theirs = Pki(tmp_path / "theirs", "impostor")
    with (
        Broker(tmp_path / "impostor", theirs) as impostor,
        tinyproxy(tmp_path, impostor.port) as (port, _),
        gateway(tmp_path, impostor.port, pki, proxy("http", port)) as one,
    ):
        wait_until(lambda: one.alarms() == ["EW-NET-006"], WAIT_S)
        assert not one.snapshot().connected


def test_in_a_websocket(tmp_path: Path, broker: Broker, pki: Pki) -> None:
    port = broker.websocket_port  # type: ignore[attr-defined]
    delivers(tmp_path, port, broker, pki, Route(websocket="/mqtt", token_bytes=os.urandom))


@pytest.mark.needs("tinyproxy")
def test_in_a_websocket_through_a_proxy(tmp_path: Path, broker: Broker, pki: Pki) -> None:
    inside = broker.websocket_port  # type: ignore[attr-defined]
    with tinyproxy(tmp_path, inside) as (port, _):
        route = replace(proxy("http", port), websocket="/mqtt", token_bytes=os.urandom)
        delivers(tmp_path, inside, broker, pki, route)


def test_a_broker_without_websockets_is_named(tmp_path: Path, broker: Broker, pki: Pki) -> None:
    route = Route(websocket="/mqtt", token_bytes=os.urandom)
    with gateway(tmp_path, broker.port, pki, route) as one:
        wait_until(lambda: one.snapshot().fault is not None, WAIT_S)
        fault = one.snapshot().fault
        assert fault is not None
        assert fault.code == "EW-NET-015"


@pytest.mark.needs("haproxy")
@pytest.mark.parametrize("name", ["mqtt", "x-amzn-mqtt-ca"])
def test_a_shared_port_takes_us_by_the_protocol_we_name(
    tmp_path: Path, broker: Broker, pki: Pki, name: str
) -> None:
    with alpn_switch(tmp_path, name, broker.port) as port:
        delivers(tmp_path, port, broker, pki, Route(alpn=name))


@pytest.mark.needs("haproxy")
def test_without_the_name_the_shared_port_refuses(tmp_path: Path, broker: Broker, pki: Pki) -> None:
    with (
        alpn_switch(tmp_path, "mqtt", broker.port) as port,
        gateway(tmp_path, port, pki, Route()) as one,
    ):
        wait_until(lambda: one.snapshot().fault is not None, WAIT_S)
        fault = one.snapshot().fault
        assert fault is not None
        assert fault.code == "EW-NET-005"


@pytest.mark.needs("root")
def test_a_site_without_ipv4(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            "unshare",
            "--net",
            "--mount",
            sys.executable,
            "-m",
            "tests.system.ipv6_world",
            str(tmp_path),
        ],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT / 'agent'}:{ROOT}", "PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    told = json.loads(done.stdout)
    assert told["delivered"] == told["durable"] >= 25
