"""Publishing with mutual TLS, QoS 1, a kilobyte each: link's session beside mosquitto_pub.

    data.4.9-publish   messages a second through link's session and window   against   mosquitto_pub
    data.4.9-drain     records a second from the spool to the broker, by the whole uplink   against
                       the same

One broker for all; mosquitto_pub reads its lines from a file, and what it takes for one line is
taken off. Nobody subscribes but to what is drained: a broker that has to pass everything on is what
limits both (seen: x 1.2). Turns, not blocks.
"""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from edgewarden.link.session import Session
from edgewarden.link.window import Flight, Window
from tests import filled
from tests.bench.linked import Site
from tests.bench.place import ROOT, CannotMeasure, Place, stop
from tests.bench.rows import HIGHER, Figure, Spec, middle

COUNT, DRAINED = 20_000, 10_000
SIZE, WINDOW, RUNS = 1000, 20, 3
LIMIT_S = 120
PUBLISHER = "peer"
TOPIC = f"ew/1/main/{PUBLISHER}/r/bulk"

SPECS = (
    Spec("data.4.9-publish", f"messages of {SIZE} bytes a second, mutual TLS, QoS 1, at most"
         f" {WINDOW} in flight: link's session / mosquitto_pub", "x", 0.2, HIGHER),
    Spec("data.4.9-drain", "records a second from the spool, by the whole uplink / the same", "x",
         0.05, HIGHER),
)  # fmt: skip


def measure(place: Place) -> Iterator[Figure]:
    """The figures of this file."""
    site = Site(place, "mqtt")
    spool = site.folder / "spool"
    filled.write(spool, DRAINED)
    (site.folder / "lines").write_text(("x" * SIZE + "\n") * COUNT)
    (site.folder / "line").write_text("x" * SIZE + "\n")
    site.pki.issue(filled.DEVICE)
    site.pki.issue(PUBLISHER)
    rates: dict[str, list[float]] = {"publish": [], "drain": [], "peer": []}
    for run in range(RUNS):
        rates["publish"].append(COUNT / worker(site, "publish"))
        rates["peer"].append(COUNT / (peer(site, "lines") - peer(site, "line")))
        filled.borrow(spool, site.folder / f"drain-{run}")
        listener = site.listener()  # what nobody hears counts for nothing in a drain
        rates["drain"].append(DRAINED / worker(site, "drain", site.folder / f"drain-{run}"))
        stop(listener)
    against = f"mosquitto_pub {middle(rates['peer']):.0f} messages/s"
    for name in ("publish", "drain"):
        ratio = middle(a / b for a, b in zip(rates[name], rates["peer"], strict=True))
        yield Figure(
            f"data.4.9-{name}", ratio, against, RUNS, f"{middle(rates[name]):.0f} a second"
        )


def peer(site: Site, lines: str) -> float:
    """Seconds of a mosquitto_pub that publishes each line of a file."""
    with (site.folder / lines).open("rb") as text:
        began = time.perf_counter()
        done = subprocess.run(
            site.client_line("mosquitto_pub", PUBLISHER, "-t", TOPIC, "-l"),
            stdin=text, capture_output=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
        spent_s = time.perf_counter() - began
    if done.returncode != 0:
        raise CannotMeasure(f"mosquitto_pub: {done.stderr.decode()[-200:]}")
    return spent_s


def worker(site: Site, what: str, *words: Path) -> float:
    """Seconds, as a process of its own says."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.mqtt", what, str(site.broker.port),
         str(site.pki.folder), *map(str, words)],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False,
        env={"PYTHONPATH": f"{ROOT / 'agent'}:{ROOT}", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    if done.returncode != 0:
        raise CannotMeasure(f"{what}: {done.stderr.decode()[-300:]}")
    return float(done.stdout)


# --- the process ---------------------------------------------------------------------------------


async def publish(port: int, pki: Path) -> float:
    """COUNT messages through one session, WINDOW in flight."""
    from edgewarden.daemon.clock import SystemClock
    from edgewarden.link.dial import DIRECT, dial

    flying, going, ended = Window(WINDOW), asyncio.Event(), 0

    def acked(mid: int, _reason: int) -> None:
        nonlocal ended
        if flying.ended(mid) is not None:
            ended += 1
            going.set()

    connection = dial("localhost", port, context(pki, PUBLISHER), SystemClock(), DIRECT)
    session = Session(
        connection, PUBLISHER, keepalive_s=60, window=WINDOW, will=("w", b""), on_acked=acked,
        on_message=lambda *_: None,
    )  # fmt: skip
    await session.connect("localhost", port)
    data, sent = b"x" * SIZE, 0
    began = time.perf_counter()
    while ended < COUNT:
        while sent < COUNT and len(flying) < WINDOW:
            mid = session.publish(TOPIC, data)
            if mid is None:
                raise CannotMeasure("the session ended")
            flying.sent(mid, Flight(None, 0, SIZE))
            sent += 1
        going.clear()
        await going.wait()
    spent_s = time.perf_counter() - began
    await session.close()
    return spent_s


def drain(port: int, pki: Path, state: Path) -> float:
    """DRAINED records of a spool, from the session's beginning to the last acknowledgement."""
    from tests.system.uplinks import FAST, Gateway
    from tests.waiting import wait_until

    settings = replace(FAST, keepalive_s=60)
    with Gateway(state, port, lambda: context(pki, filled.DEVICE), settings) as one:
        wait_until(lambda: one.snapshot().connected, 30)
        began = time.perf_counter()
        wait_until(one.drained, LIMIT_S)
        return time.perf_counter() - began


def context(pki: Path, name: str) -> ssl.SSLContext:
    """A verifying client context."""
    made = ssl.create_default_context(cafile=str(pki / "ca.pem"))
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.load_cert_chain(pki / f"{name}.pem", pki / f"{name}.key")
    return made


if __name__ == "__main__":
    if sys.argv[1] == "publish":
        print(asyncio.run(publish(int(sys.argv[2]), Path(sys.argv[3]))))
    else:
        print(drain(int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])))
