"""gate's half of a flood of denials, as a process of its own: its queue, its ledger, its socket.

    python denier.py SOCKET SECONDS

Offers RATE denials a second in slices, as fast as execs could be judged; between slices it does
what gate's loop does (accept, flush when due, wait for room). At the end it tells everything and
prints one JSON line: offered (by uid), rss_kb_early, rss_kb, crowded.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections import Counter
from pathlib import Path

from edgewarden.gate.facts import FactsOut
from edgewarden.gate.sockets import listen
from edgewarden.wire.local import Alarm, ExecVerdict

RATE = 20_000
SLICE_S = 0.01
PROGRAMS, STRANGERS = 300, 5_000


def rss_kb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4


def denial(program: int, uid: int) -> ExecVerdict:
    digest = program.to_bytes(32, "big")
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    path = b"/mnt/apps/a-folder/of-some-length/program-%d" % program
    return ExecVerdict("deny", "unlisted", "enforce", "T3", digest, "", path, 7, uid, now_ns)


def main(path: str, seconds: float) -> None:
    facts = FactsOut(listen(path, owner_uid=os.getuid()), {os.getuid()})
    poll = select.poll()
    poll.register(facts.listener.fileno(), select.POLLIN)
    poll.poll(60_000)
    assert facts.accept()
    offered: Counter[int] = Counter()
    began, due, number, early_kb = time.monotonic(), 0.0, 0, 0

    def offer(program: int, uid: int) -> None:
        facts.put(denial(program, uid))
        offered[uid] += 1

    while number < RATE * seconds:
        now = time.monotonic()
        for _ in range(int(RATE * SLICE_S)):
            number += 1
            if number <= PROGRAMS:
                offer(number, 1000)
            elif number % 2:
                offer(1 + number % PROGRAMS, 1000)
            else:
                offer(10_000 + number % STRANGERS, 1001)
        if number == RATE // 2:
            offer(77, 0)  # the one that the flood is to hide
            facts.put(Alarm("EW-EXEC-004", 5, "gate was ended", 5))
        if not early_kb and number >= RATE * seconds / 4:
            early_kb = rss_kb()
        if facts.due(now) or facts.waiting:
            facts.flush(now)
        due += SLICE_S
        time.sleep(max(0.0, began + due - time.monotonic()))
    at_end_kb, lasted_s = rss_kb(), time.monotonic() - began
    facts.flush(time.monotonic(), all_now=True)
    deadline = time.monotonic() + 60
    while facts.waiting and time.monotonic() < deadline:
        time.sleep(SLICE_S)
        facts.flush(time.monotonic(), all_now=True)
    print(
        json.dumps(
            {
                "offered": dict(offered),
                "rate": number / lasted_s,
                "rss_kb_early": early_kb,
                "rss_kb": at_end_kb,
                "crowded": facts.ledger.crowded,
                "waiting": facts.waiting,
            }
        ),
        flush=True,
    )
    sys.stdin.read()  # the reader hangs up first, so that nothing in the socket is lost


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
