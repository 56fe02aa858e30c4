"""A small world for the ratchet: a fleet, a network that does what it likes, gateways with disks,
and copies of them.

Only the rule under test is real (order/ratchet.py); the adapters around it are the few lines that
the real ones promise: what is durable before what is sent, one transaction per message. A test may
hand in another rule (a mutation) and see what it lets through.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from edgewarden.order import ratchet
from edgewarden.order.ratchet import Around, Issuer, Judgement, Outcome
from edgewarden.wire.ratchet import Held, Issued, Spent

ISSUER = Issuer(b"s" * 32, "main/gw-demo")
KEPT_STEPS = 128


@dataclass(frozen=True)
class Rule:
    """The functions of the rule; a mutation replaces some."""

    judge: Callable[[Spent | None, Spent, Around, Issuer], Judgement] = ratchet.judge
    spend: Callable[[Held, bytes], Held] = ratchet.spend
    adopt: Callable[[Held, Issued], Held] = ratchet.adopt
    durable_mark: bool = True
    """The gateway's mark is on the disk before the token leaves."""
    durable_head: bool = True
    """The fleet commits before it answers."""
    keeps_floors: bool = True


@dataclass(frozen=True)
class Answer:
    """Evidence on its way: the challenge it answers, what it presents, who sent it."""

    nonce: int
    spent: Spent
    who: str


@dataclass(frozen=True)
class Result:
    """The fleet's answer on its way."""

    token: Issued | None


@dataclass
class Disk:
    """What survives a power cut."""

    held: Held


class Gateway:
    """One copy: a disk, and a memory that a power cut empties."""

    def __init__(self, name: str, disk: Disk, world: World) -> None:
        self.name, self.disk, self.world = name, disk, world
        self.memory = disk.held

    def start(self) -> None:
        """Power cut, or restart: only the disk is left."""
        self.memory = self.disk.held

    def answer(self, nonce: int, cut: bool = False) -> Answer | None:
        """Spend and send. A cut falls between the disk and the network."""
        self.memory = self.world.rule.spend(self.memory, self.world.mark())
        if self.world.rule.durable_mark:
            self.disk.held = self.memory
        if cut:
            self.start()
            return None
        return Answer(nonce, ratchet.presentation(self.memory), self.name)

    def take(self, result: Result, cut: bool = False) -> None:
        """Adopt what the answer brought; a cut falls before the disk has it.

        Any answer that comes: the real gateway also refuses those to another challenge than its
        last, and the rule must do without that.
        """
        if result.token is None:
            return
        taken = self.world.rule.adopt(self.memory, result.token)
        if cut:
            self.start()
            return
        self.memory = self.disk.held = taken


@dataclass
class Store:
    """The fleet's durable state."""

    head: Spent | None = None
    steps: dict[int, Spent] = field(default_factory=dict)
    floors: dict[int, int] = field(default_factory=dict)
    alarm: str = ""

    def copy(self) -> Store:
        return Store(self.head, dict(self.steps), dict(self.floors), self.alarm)


class World:
    """The fleet and everybody who speaks to it."""

    def __init__(self, rule: Rule | None = None) -> None:
        self.rule = rule or Rule()
        self.durable, self.store = Store(), Store()
        self.marks = self.nonces = 0
        self.believed: list[tuple[str, Spent]] = []
        self.refused: list[tuple[Spent, Outcome]] = []
        """Without an alarm."""

    def mark(self) -> bytes:
        self.marks += 1
        return self.marks.to_bytes(16, "big")

    def challenge(self) -> int:
        """A nonce for whoever is listening."""
        self.nonces += 1
        self.store.floors[self.nonces] = self.store.head.step if self.store.head else 0
        self._commit()
        return self.nonces

    def receive(self, answer: Answer, crash: bool = False) -> Result | None:
        """One piece of evidence; a crash falls after the commit, before the answer is out.

        The nonce of a repeated message is gone: it is not looked at (``nonce_used``).
        """
        floor = self.store.floors.pop(answer.nonce, None)
        if floor is None:
            return None
        place = Around(
            self.store.steps.get(answer.spent.step), floor if self.rule.keeps_floors else 0
        )
        judged = self.rule.judge(self.store.head, answer.spent, place, ISSUER)
        if judged.alarm:
            self.store.alarm = self.store.alarm or f"{judged.outcome}: {judged.why}"
        believed = not self.store.alarm and judged.answer is not None
        if believed:
            self.believed.append((answer.who, answer.spent))
        elif not self.store.alarm:
            self.refused.append((answer.spent, judged.outcome))
        if believed and judged.outcome in (Outcome.NEXT, Outcome.ADOPTED):
            assert judged.head is not None
            self.store.head = judged.head
            self.store.steps[judged.head.step] = judged.head
            self.store.steps.pop(judged.head.step - KEPT_STEPS, None)
        self._commit()
        if crash:
            self.restart()
            return None
        return Result(judged.answer if believed else None)

    def restart(self) -> None:
        """The verifier ends and starts again from its store."""
        self.store = self.durable.copy()

    def restore(self, backup: Store) -> None:
        """The verifier's machine died; its store comes from a backup."""
        self.durable = backup.copy()
        self.restart()

    def clone(self, gateway: Gateway, name: str, disk: Disk | None = None) -> Gateway:
        """Another board with a copy of the disk (or of an older backup)."""
        return Gateway(name, replace(disk or gateway.disk), self)

    def _commit(self) -> None:
        """Alarms and nonces are kept in any case; a rule may forget to keep the head."""
        durable = self.store.copy()
        if not self.rule.durable_head:
            durable.head, durable.steps = self.durable.head, dict(self.durable.steps)
        self.durable = durable
