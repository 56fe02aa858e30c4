"""What becomes of devices and of what they bring: the listener's words in, facts out.

Holds the judge (sessions.py), the pins (lineage.py) and what each device showed since this process
began. Knows no socket: listener.py hands over peers whose certificate held, readings and evidence,
and is told which sessions to end.

Rules:

* a first key is on the disk before its device is let in; with a disk that refuses, no device is
  (``not_kept``): after a power cut another key would be the first
* a name in two places ends all its sessions, is kept in quarantine on the disk and told
* a nonce is of one use, for one device, for NONCE_S; it is used up whatever the evidence is worth
* what a device showed counts for ``evidence_valid_s`` and for this process's life
* requests of a device, of any kind: REQUESTS_PER_S (``too_many_requests`` ends the session), before
  anything of them is parsed; CHALLENGES_PER_S (``too_many_challenges``)
* readings: values_per_s, ten times that at once (``rate``); MAX_CHANNELS names
  (``too_many_channels``)
* what is said of a device goes upstream whenever it changes: a record with the statement, whose
  SHA-256 evidence names from then on

A reading's source is ``device:NAME``: no serial port can be called so, and no device like a port.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

from edgewarden.appraise.devices import Verify, judge_token
from edgewarden.downstream.budget import Bucket
from edgewarden.downstream.lineage import Devices
from edgewarden.downstream.places import Whereabouts
from edgewarden.downstream.readings import Values
from edgewarden.downstream.registry import Registry
from edgewarden.downstream.sessions import Peer, Verdict, judge
from edgewarden.downstream.shown import (
    CERTIFICATE_ALONE,
    SINCE_START,
    DeskSettings,
    Known,
    Shown,
    listed,
    same,
    statement,
    told_of,
)
from edgewarden.errors import EdgewardenError, WireRefusal
from edgewarden.ports import Clock, FactSink, Randomness
from edgewarden.wire import devices as wire
from edgewarden.wire.devices import Statement, Word, encode_statement
from edgewarden.wire.eat import NONCE_BYTES, open_token
from edgewarden.wire.evidence import Tier
from edgewarden.wire.facts import OCSF, Event, Plain, Reading, Severity

NONCE_S = 60.0
"""A small board signs in a second; a person who types the commands needs a minute."""
MAX_CHANNELS = 32
"""Names of one device's readings. The fleet shows 1,024 of a gateway."""
TOLD_S = 60.0
"""Sessions of a device are told as one event a minute, with their count."""
SOURCE = "device:"


class Desk:
    """See the module. Every method on the loop's thread.

    Args:
        end: ends a session of the listener by its number; must not call back before it returns.
        verify: of a P-256 key, either form of a signature.
    """

    def __init__(
        self,
        settings: DeskSettings,
        registry: Registry,
        sink: FactSink,
        clock: Clock,
        random: Randomness,
        verify: Verify,
        end: Callable[[int], None] = lambda number: None,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._sink = sink
        self._clock = clock
        self._random = random
        self._verify = verify
        self._end = end
        self._lock = asyncio.Lock()
        self._keeping: set[asyncio.Task[bool]] = set()
        self._kept = 0
        self._numbers = 0
        self._names: dict[int, str] = {}
        self._stated: dict[str, bytes] = {}
        self._obeyed: list[Word] = []
        self.devices = Devices()
        self.where = Whereabouts()
        self.shown: dict[str, Shown] = {}
        self.refused: dict[str, int] = {}

    async def begin(self) -> None:
        """Read the pins; raises TrustFault, HardwareFault."""
        loop = asyncio.get_running_loop()
        self.devices = await loop.run_in_executor(None, self._registry.load)
        self._kept = self.devices.generation
        for name in self.devices.known:
            self.shown[name] = Shown(why=SINCE_START)
            self._state(name)

    # --- sessions -----------------------------------------------------------------------------

    async def enter(self, peer: Peer, tls_key: bytes) -> int:
        """Let a session in; returns its number, ``leave`` must follow.

        Args:
            tls_key: COSE_Key of its certificate; b"" when that is not P-256.

        Raises:
            WireRefusal: by the names of sessions.py, or ``not_kept``.
        """
        verdict = self._judge(peer)
        if verdict.pin:
            now = self._clock.now()
            self.devices = self.devices.pinned(peer.name, peer.key, now.wall_ns // 10**9)
        if self.devices.generation > self._kept and not await self._keep():
            self._count(peer.name, "not_kept")
            raise WireRefusal("not_kept", "its key cannot be stored")
        # Meanwhile another session may have begun, or a word may have taken the pin away.
        if self._judge(peer).pin:
            self._count(peer.name, "not_kept")
            raise WireRefusal("not_kept", "its key was taken away again; it may come anew")
        self._numbers += 1
        number, now_ns = self._numbers, self._clock.now().boot_ns
        self._names[number] = peer.name
        shown = self.shown.setdefault(peer.name, Shown())
        shown.tls_key, shown.place = tls_key, peer.place
        shown.seen_ns = now_ns
        shown.sessions += 1
        shown.untold += 1
        self._tell_session(peer.name, shown, now_ns)
        self._state(peer.name)
        why = self.where.begin(number, peer.name, peer.place, now_ns)
        if why:
            self._quarantine(peer.name, why)
            self.leave(number)
            raise WireRefusal("quarantined", why)
        return number

    def speaks(self, number: int, protocol: str) -> None:
        """The first byte of a session said what it speaks."""
        self.shown[self._names[number]].protocol = protocol

    def spoke(self, number: int) -> None:
        """Something came in a session; raises WireRefusal when that shows that there are two."""
        name = self._names[number]
        self.shown[name].seen_ns = self._clock.now().boot_ns
        why = self.where.spoke(number)
        if why:
            self._quarantine(name, why)
            raise WireRefusal("quarantined", why)

    def leave(self, number: int) -> None:
        """A session is over."""
        self.where.end(number)
        self._names.pop(number, None)

    def _judge(self, peer: Peer) -> Verdict:
        here = len(self.where.of(peer.name))
        verdict = judge(peer, self.devices, self._settings.listed, here)
        if verdict.refusal:
            self._count(peer.name, verdict.refusal)
            if verdict.refusal == "other_key":
                title = f"device {peer.name} shows another key than the pinned one"
                self._find("EW-DEV-001", title, {"why": verdict.why, "place": peer.place})
            raise WireRefusal(verdict.refusal, verdict.why)
        return verdict

    def _quarantine(self, name: str, why: str) -> None:
        self.devices = self.devices.quarantined(name, why)
        self._find("EW-DEV-002", f"device {name} is in two places", {"why": why})
        self._state(name)
        for number in self.where.of(name):
            self._end(number)
        task = asyncio.get_running_loop().create_task(self._keep())
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    def _count(self, name: str, refusal: str) -> None:
        self.refused[refusal] = self.refused.get(refusal, 0) + 1
        shown = self.shown.get(name)
        if shown is not None:
            shown.refused[refusal] = shown.refused.get(refusal, 0) + 1

    # --- what a device brings -----------------------------------------------------------------

    def readings(self, number: int, values: Values) -> None:
        """Make facts of values; raises WireRefusal ``rate``, ``too_many_channels``: of none."""
        name, now_ns = self._names[number], self._clock.now().boot_ns
        shown = self.shown[name]
        per_s = self._settings.values_per_s
        if shown.bucket is None:
            shown.bucket = Bucket(per_s, 10 * per_s, now_ns)
        if not shown.bucket.has(now_ns, len(values)):
            raise WireRefusal("rate", f"more than {per_s} values a second")
        if len(shown.channels | set(values)) > MAX_CHANNELS:
            raise WireRefusal("too_many_channels", f"more than {MAX_CHANNELS} names of readings")
        shown.bucket.take(max(1, len(values)))
        shown.channels |= set(values)
        shown.readings += len(values)
        for channel, value in values.items():
            self._sink(Reading(SOURCE + name, channel, "", value, now_ns, shown.quality()))

    def asks(self, number: int) -> None:
        """A request begins; raises WireRefusal ``too_many_requests``: its session ends."""
        name, now_ns = self._names[number], self._clock.now().boot_ns
        self.shown[name].asks(now_ns, 2 * self._settings.values_per_s)

    def refuse(self, number: int, refusal: WireRefusal) -> None:
        """Count what a session was refused for."""
        self._count(self._names[number], refusal.name)

    def nonce(self, number: int) -> bytes:
        """A challenge for this session's device; the one before is void.

        Raises:
            WireRefusal: ``too_many_challenges``; the one before stands.
        """
        shown, now_ns = self.shown[self._names[number]], self._clock.now().boot_ns
        shown.challenged(now_ns, 2 / self._settings.evidence_valid_s)
        shown.challenge = self._random.token_bytes(NONCE_BYTES)
        shown.challenge_until_ns = now_ns + int(NONCE_S * 1e9)
        return shown.challenge

    def evidence(self, number: int, data: bytes) -> tuple[Tier, str]:
        """Judge a device's evidence.

        Raises:
            WireRefusal: of wire/eat.py, ``no_challenge``, ``stale_nonce``, ``no_key``,
                ``bad_signature``; nothing of it counts then.
        """
        name = self._names[number]
        shown = self.shown[name]
        known = self._settings.known.get(name, Known())
        challenge, until_ns = shown.challenge, shown.challenge_until_ns
        shown.challenge = b""
        now_ns = self._clock.now().boot_ns
        token = open_token(data)
        if not challenge or now_ns >= until_ns:
            raise WireRefusal("no_challenge", "ask for a nonce first; it lives a minute")
        if token.nonce != challenge:
            raise WireRefusal("stale_nonce", "it answers another challenge")
        key = known.attestation_key or shown.tls_key
        if not key:
            raise WireRefusal("no_key", "its TLS key is not P-256, and no other is named")
        if not self._verify(key, token.signed, token.signature):
            raise WireRefusal("bad_signature", "not signed by the key that it should be")
        named = bool(known.attestation_key)
        shown.tier, shown.why = judge_token(token, known.measurements, named)
        shown.signed_by, shown.named = key, named
        shown.nonce, shown.evidence = challenge, data
        shown.until_ns = now_ns + self._settings.evidence_valid_s * 10**9
        if shown.tier is Tier.CONTRAINDICATED:
            self._find(
                "EW-DEV-003", f"device {name} measured what it should not", {"why": shown.why}
            )
        self._state(name)
        return shown.tier, shown.why

    # --- time, and a person's word --------------------------------------------------------------

    async def tick(self) -> None:
        """Once a second: two places, words, evidence that is too old, what waits for the disk."""
        now_ns = self._clock.now().boot_ns
        for name, why in self.where.together(now_ns).items():
            self._quarantine(name, why)
        for name, shown in list(self.shown.items()):
            if name not in self.devices.known:  # retired
                if not self.where.of(name):
                    del self.shown[name]
                continue
            if shown.evidence and now_ns >= shown.until_ns:
                shown.forget_evidence("its evidence is too old")
                self._state(name)
            self._tell_session(name, shown, now_ns)
        try:
            words = self._registry.new_words()
        except (WireRefusal, OSError) as fault:
            self._find("EW-DEV-009", "words about devices cannot be read", {"why": str(fault)})
            words = []
        for word in words:
            self._obey(word)
        if self.devices.generation <= self._kept or await self._keep():
            for word in self._obeyed:  # only what a power cut cannot take back
                self._tell(OCSF.CONFIG_STATE, Severity.MEDIUM, told_of(word))
            self._obeyed.clear()

    async def finish(self) -> None:
        """Wait for what is on its way to the disk."""
        await asyncio.gather(*self._keeping)

    def _obey(self, word: Word) -> None:
        after = self.devices.obeyed(word)
        if after is self.devices:
            return
        self.devices = after
        self._forget(word)
        self._obeyed.append(word)
        if word.device in self.devices.known:
            self._state(word.device)
        else:
            self._stated.pop(word.device, None)

    def _forget(self, word: Word) -> None:
        """Who held the name until now is not who it means from now on: sessions and evidence go."""
        self.where.forget(word.device)
        shown = self.shown.get(word.device)
        if shown is not None:
            shown.forget_evidence(CERTIFICATE_ALONE)
            shown.challenge, shown.challenge_until_ns, shown.tls_key = b"", 0, b""
        for number in self.where.of(word.device):
            self._end(number)

    async def _keep(self) -> bool:
        """Make the present pins durable; False when the disk refuses."""
        async with self._lock:
            devices = self.devices
            if devices.generation <= self._kept:
                return True
            loop = asyncio.get_running_loop()
            try:
                await loop.run_in_executor(None, self._registry.save, devices)
            except EdgewardenError as fault:
                self._find("EW-DEV-008", "the pinned keys of devices cannot be stored",
                           {"why": fault.text})  # fmt: skip
                return False
            self._kept = devices.generation
            return True

    # --- what is said upstream ------------------------------------------------------------------

    def submodules(self) -> dict[str, bytes]:
        """Device -> SHA-256 of what is said of it, for evidence."""
        return {name: hashlib.sha256(data).digest() for name, data in self._stated.items()}

    def statement(self, name: str) -> Statement:
        """What is said of a device now."""
        at_utc_s = max(0, self._clock.now().wall_ns // 10**9)
        return statement(name, self.devices.known[name], self.shown.get(name, Shown()), at_utc_s)

    def _state(self, name: str) -> None:
        """Send what is said of a device upstream, when it is not what was said last."""
        statement = self.statement(name)
        before = self._stated.get(name)
        if before is not None and same(wire.decode_statement(before), statement):
            return
        data = encode_statement(statement)
        self._stated[name] = data
        detail: dict[str, Plain] = {
            "what": f"device {name}",
            "why": f"{statement.tier.label}: {statement.why}" if statement.why else "affirming",
            "device_statement": data,
        }
        self._tell(OCSF.CONFIG_STATE, Severity.INFORMATIONAL, detail)

    def _tell_session(self, name: str, shown: Shown, now_ns: int) -> None:
        told_ns = shown.told_ns
        if not shown.untold or (told_ns is not None and now_ns - told_ns < TOLD_S * 1e9):
            return
        detail: dict[str, Plain] = {
            "what": f"device {name}",
            "why": f"{shown.untold} sessions, the last from {shown.place}",
            "src_endpoint": {"ip": shown.place},
        }
        shown.told_ns, shown.untold = now_ns, 0
        self._tell(OCSF.NETWORK_ACTIVITY, Severity.INFORMATIONAL, detail)

    def _find(self, code: str, title: str, detail: dict[str, Plain]) -> None:
        told: dict[str, Plain] = {"title": title, **detail}
        now_ns = self._clock.now().boot_ns
        self._sink(Event(OCSF.DETECTION_FINDING, 1, Severity.HIGH, now_ns, told, code))

    def _tell(self, kind: OCSF, severity: Severity, detail: dict[str, Plain]) -> None:
        self._sink(Event(kind, 1, severity, self._clock.now().boot_ns, detail))

    # --- for a person -----------------------------------------------------------------------------

    def listed(self) -> dict[str, dict[str, object]]:
        """Every device, for `edgewarden devices`."""
        now_ns = self._clock.now().boot_ns
        return {
            name: listed(
                self.statement(name),
                pinned,
                self.shown.get(name),
                bool(self.where.of(name)),
                now_ns,
            )
            for name, pinned in sorted(self.devices.known.items())
        }
