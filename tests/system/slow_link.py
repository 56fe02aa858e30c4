"""How long an alarm takes over a link of 64 kbit/s, idle and with a backlog in front of it.

    unshare --net --mount python -m tests.system.slow_link FOLDER BACKLOG ALARMS TURNS [fixed]

Broker and subscriber stand in that network namespace, the gateway in one of its own, a veth pair
between them with a token bucket (``tc ... tbf``) on each end. Its queue of 32 kB is a modem's: four
seconds, so that whoever fills it waits. The backlog is written by tests/filled.py, unless there is
one in FOLDER/full. Prints a JSON line for each turn: the idle link, then the one with the backlog;
latency is from the moment before an alarm is submitted to the moment the subscriber hears it, by
the one monotonic clock of both.

``fixed`` is the negative control: what flies does not follow the link.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

from edgewarden.link import drain
from edgewarden.link.pace import MAX_BYTES, Pace
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.record import RecordClass, decode_record
from tests import filled
from tests.broker import Broker, Pki, Subscriber
from tests.system.uplinks import DEVICE, FAST, Gateway, event
from tests.waiting import wait_until

HERE, THERE = "10.77.0.1", "10.77.0.2"
TBF = "rate 64kbit burst 1600 limit 32kb"
PERIOD_S = 0.5
"""Two alarms a second are 1.4 kB/s of the link's 8."""
WAIT_S = 60.0


class Timed(Subscriber):
    """Remembers when it heard each alarm, and by its content how long it took."""

    def __init__(self, port: int, context: ssl.SSLContext, topics: Sequence[str]) -> None:
        self.took_s: dict[str, float] = {}
        super().__init__(port, context, topics)

    def _heard(self, client: object, _: object, message: object) -> None:
        now_ns = time.monotonic_ns()
        super()._heard(client, _, message)  # type: ignore[arg-type]
        topic, payload, _retained = self.messages[-1]
        if topic.endswith("/r/alarm"):
            record = decode_record(cose.open_envelope(payload, ContentType.RECORD).payload)
            detail = record.body.get("detail")
            if isinstance(detail, dict) and "sent_ns" in detail:
                name = f"{detail['phase']}/{detail['n']}"
                self.took_s.setdefault(name, (now_ns - int(detail["sent_ns"])) / 1e9)


class FixedPace(Pace):
    """What the window was before it followed the link."""

    def __init__(self) -> None:
        super().__init__()
        self.limit_bytes = MAX_BYTES

    def acked(self, *_: object, **__: object) -> None:
        return


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def gateway(folder: Path, phase: str, alarms: int, fixed: bool) -> None:
    """The gateway's process: alarms at an even pace; prints what its memory did."""
    if fixed:
        drain.Pace = FixedPace  # type: ignore[misc]
    context = ssl.create_default_context(cafile=str(folder / "pki" / "ca.pem"))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(folder / "pki" / f"{DEVICE}.pem", folder / "pki" / f"{DEVICE}.key")
    settings = replace(FAST, keepalive_s=60)
    state = folder / ("full" if phase.startswith("full") else "empty")
    with Gateway(state, 8883, lambda: context, settings, cap_bytes=filled.CAP_BYTES) as one:
        try:
            wait_until(lambda: one.snapshot().connected, WAIT_S)
        except TimeoutError:
            raise AssertionError(f"no session: {one.snapshot()} {one.events}") from None
        began, rss, flying = time.monotonic(), [rss_bytes()], [0]
        for n in range(alarms):
            time.sleep(max(0.0, began + n * PERIOD_S - time.monotonic()))
            told = event(phase=phase, n=n, sent_ns=time.monotonic_ns())
            one.storage.submit_event(told, RecordClass.ALARM)
            rss.append(rss_bytes())
            flying.append(one.snapshot().in_flight_bytes)
        one.storage.flush().result(60)
        wait_until(lambda: _alarms_gone(one), WAIT_S)
        spent_s = time.monotonic() - began
        state_now = one.storage.state()[RecordClass.AUDIT]
        told_all = {
            "rss_first": rss[0],
            "rss_most": max(rss),
            "flying_most": max(flying),
            "flying_p50": median(flying),
            "records_s": state_now.acked / spent_s,
            "waiting": state_now.durable - state_now.acked,
            "reconnects": one.snapshot().reconnects,
        }
        print(json.dumps(told_all), flush=True)
        os._exit(0)  # a goodbye would stand behind what is in flight


def _alarms_gone(one: Gateway) -> bool:
    alarm = one.storage.state()[RecordClass.ALARM]
    return alarm.acked == alarm.durable


@contextmanager
def other_namespace(folder: Path) -> Iterator[list[str]]:
    """The prefix of a command that runs at the other end of the slow wire."""
    (folder / "hosts").write_text(f"{HERE} localhost\n")
    subprocess.run(["mount", "--bind", folder / "hosts", "/etc/hosts"], check=True)
    holder = subprocess.Popen(["unshare", "--net", "sleep", "3600"])
    own = os.readlink("/proc/self/ns/net")
    try:
        wait_until(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != own, 60)
        inside = ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
        for words in (
            "ip link set lo up",
            f"ip link add here0 type veth peer name there0 netns {holder.pid}",
            f"ip addr add {HERE}/24 dev here0",
            "ip link set here0 up",
            f"tc qdisc add dev here0 root tbf {TBF}",
        ):
            subprocess.run(words.split(), check=True)
        for words in (
            f"ip addr add {THERE}/24 dev there0",
            "ip link set there0 up",
            f"tc qdisc add dev there0 root tbf {TBF}",
        ):
            subprocess.run([*inside, *words.split()], check=True)
        yield inside
    finally:
        holder.kill()
        holder.wait(60)


def of(heard: Timed, phase: str, alarms: int) -> dict[str, float]:
    found = sorted(s for name, s in heard.took_s.items() if name.startswith(f"{phase}/"))
    p99 = found[min(len(found) - 1, int(0.99 * len(found)))]
    return {"sent": alarms, "heard": len(found), "p50_s": median(found), "p99_s": p99}


def main(folder: Path, backlog: int, alarms: int, turns: int, *, fixed: bool) -> None:
    pki = Pki(folder / "pki")
    pki.issue(DEVICE)
    fleet = pki.client_context("fleet")
    if not (folder / "full").exists():
        filled.write(folder / "full", backlog)
    with (
        other_namespace(folder) as inside,
        Broker(folder / "broker", pki, address=HERE, port=8883),
        Timed(8883, fleet, ["ew/1/#"]) as heard,
    ):
        for turn in range(turns):
            told: dict[str, object] = {"tbf": TBF}
            for kind in ("idle", "full"):
                # By turn: what was not yet known to be accepted comes once more in the next one.
                phase = f"{kind}-{turn}"
                module = [sys.executable, "-m", "tests.system.slow_link", "gateway", str(folder)]
                line = [*inside, *module, phase, str(alarms), str(int(fixed))]
                done = subprocess.run(
                    line, capture_output=True, text=True, timeout=900, check=False
                )
                assert done.returncode == 0, done.stderr[-2000:]
                wait_until(lambda p=phase: len(_of(heard, p)) == alarms, WAIT_S)
                told[kind] = of(heard, phase, alarms) | json.loads(done.stdout)
            print(json.dumps(told), flush=True)


def _of(heard: Timed, phase: str) -> list[str]:
    return [name for name in list(heard.took_s) if name.startswith(f"{phase}/")]


if __name__ == "__main__":
    if sys.argv[1] == "gateway":
        gateway(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5] == "1")
    else:
        counts = [int(word) for word in sys.argv[2:5]]
        main(Path(sys.argv[1]), *counts, fixed="fixed" in sys.argv)
