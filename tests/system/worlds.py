"""A gateway whose state lies on a disk that the test can hurt, a broker and a fleet around it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgewarden.enrol import by_token
from edgewarden.wire.record import RecordClass
from tests.system import loopfs
from tests.system.cards import DEVICE, Card, Stage, standing
from tests.waiting import wait_until

IMAGE_MB = 24
WAIT_S = 180.0
LOG_CHARS = 4000
"""Of link's log, where a wait was in vain."""


class World:
    """A stage, one card, and the disk that its state lies on."""

    def __init__(self, stage: Stage, disk: loopfs.LoopFs) -> None:
        self.stage, self.disk = stage, disk
        fleet = stage.fleet
        by_token.enroll(disk.root, str(fleet.init["enroll"]), fleet.token(DEVICE))
        self.card = stage.keep(Card(disk.root))

    def whose_word(self, word: str) -> None:
        """What lets go of records, in the card's settings."""
        text = self.card.settings.read_text()
        self.card.settings.write_text(
            text.replace("[uplink]\n", f'[uplink]\nacknowledged_by = "{word}"\n')
        )

    def waiting(self) -> tuple[int, int]:
        """In memory at the gateway: (records signed, of these accepted by nobody yet)."""
        storage = self.card.status().get("storage")
        assert isinstance(storage, dict)
        return int(storage["signed_in_memory"]), int(storage["waiting_in_memory"])

    def mode(self) -> str:
        storage = self.card.status().get("storage")
        return str(storage["mode"]) if isinstance(storage, dict) else "none"

    def codes(self) -> set[str]:
        reasons = self.card.status().get("reasons")
        return {str(r["code"]) for r in reasons} if isinstance(reasons, list) else set()

    def memory(self) -> tuple[int, bool]:
        """What the fleet has of chains in memory: (records, one stands open)."""
        seen = self.stage.fleet.show(DEVICE)["memory"]
        assert isinstance(seen, dict)
        return int(seen["records"]), bool(seen["open"])

    def await_mode(self, mode: str) -> None:
        """Wait for it; who waits in vain is told why link is not there."""
        try:
            wait_until(lambda: self.mode() == mode, WAIT_S)
        except TimeoutError as late:
            link, status = self.card.link, self.card.status()
            ended = None if link is None else link.poll()
            mounts = Path("/proc/self/mountinfo").read_text().splitlines()
            late.add_note(f"link ended: {ended}; storage: {status.get('storage')}")
            late.add_note(f"reasons: {status.get('reasons')}")
            late.add_note(f"mounted: {[m for m in mounts if str(self.disk.root) in m]}")
            late.add_note(self.card.log.read_text(errors="replace")[-LOG_CHARS:])
            raise

    def settled(self) -> bool:
        """The fleet has everything that link calls durable. Of a link that has not opened its spool
        yet status names no class, and of nothing everything holds.
        """
        spool = self.card.status().get("spool")
        chain = self.stage.fleet.show(DEVICE)["chain"]
        assert isinstance(chain, dict)
        return (
            isinstance(spool, dict)
            and {c.label for c in RecordClass} == set(spool)
            and all(chain[c]["head"] >= one["durable"] > 0 for c, one in spool.items())
        )

    def start(self) -> None:
        """Start link and wait until everything it has is at the fleet."""
        self.card.start()
        self.await_mode("disk")
        wait_until(self.settled, WAIT_S)

    def no_second_history(self) -> None:
        """Evidence is answered with a token again, and nothing looks like a copy."""
        self.card.reports()
        assert self.stage.quarantine() is None
        assert not {"fork", "clone"} & self.stage.findings()


@contextmanager
def world_on(
    disk: loopfs.LoopFs, folder: Path, word: str = "broker", *, acknowledge: bool = False
) -> Iterator[World]:
    """A world, its link not started; whose word lets go of records, and whether the fleet gives
    its own."""
    with standing(folder, acknowledge=acknowledge) as stage:
        made = World(stage, disk)
        made.whose_word(word)
        try:
            yield made
        finally:
            made.card.end(signal.SIGKILL)
