"""The checks around late evidence, second appraisals and reference sets: remove any one, and a lie
of test_late.py, test_again.py or test_hardware.py gets through or changes its name.

The same method as test_mutation.py, with another table of attacks.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgewarden.errors import WireRefusal
from edgewarden.trust.keys import FileSigner
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden_fleet.verify import again, bundle, late, references
from edgewarden_fleet.verify.bundle import Bundle
from tests.fleet import test_again, test_late
from tests.fleet.makers import CODE, TENANT, Board, Desk, authority
from tests.fleet.test_attest import ALARM, AUDIT, appraised, nonce
from tests.fleet.test_mutation import Mutant, _is_or, _refuses, without_check

FUNCTIONS: list[Callable[..., object]] = [
    again.appraise_again,
    again._given,
    again._result,
    bundle.unseal,
    bundle.decode_facts,
    references.believe,
    late.LateEvidence._given,
]


def mutants() -> Iterator[Mutant]:
    for function in FUNCTIONS:
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
            if isinstance(node, ast.stmt) and _refuses(node):
                text = ast.unparse(node).splitlines()[0]
                yield Mutant(function, node.lineno, None, text[:90])
                if isinstance(node, ast.If) and _is_or(node.test):
                    for i, operand in enumerate(node.test.values):
                        yield Mutant(function, node.lineno, i, f"or {ast.unparse(operand)}"[:90])


def outcome(work: Callable[[], object]) -> str:
    try:
        work()
    except WireRefusal as refusal:
        return str(refusal) if refusal.name == "bad_bundle" else refusal.name
    except Exception as fault:  # weakened code may fail in any way
        return type(fault).__name__
    return "accepted"


class Scene:
    """Two honest bundles of a board, and what somebody would make of them."""

    def __init__(self, folder: Path) -> None:
        self.desk = Desk(folder, durable=False)
        self.board = Board(self.desk)
        for record_class in (ALARM, AUDIT):
            self.desk.record(self.board.introduce(record_class))
        self.desk.reference("code", CODE)
        self.bundles: list[Bundle] = []
        for _ in range(2):
            appraised(self.desk, self.board, nonce(self.desk))
            self.bundles.append(test_again.bundle_of(self.desk))
        self.sealed = bundle.seal(self.bundles[0], self.desk.verifier_key)
        (self.set,) = self.bundles[0].sets

    def bundle_lies(self) -> Iterator[Callable[[], object]]:
        desk, (first, second) = self.desk, self.bundles
        for lie in test_again.LIES.values():
            changed = lie(desk, first)
            yield lambda changed=changed: test_again.again(desk, changed)  # type: ignore[misc]
        other = FileSigner.generate()
        yield lambda: test_again.again(desk, first, first_key=other.public_key())
        yield lambda: test_again.again(desk, first, roots=[authority()[0].certificate])
        yield lambda: test_again.again(desk, replace(first, result=second.result))
        envelope = cose.open_envelope(first.result, ContentType.RESULT)
        stranger = cose.seal(envelope.payload, ContentType.RESULT, envelope.kid, other.sign)
        yield lambda: test_again.again(desk, replace(first, result=stranger))
        # The nonce of one, the hash of another: a result that was put together.
        yield from self._put_together(first, second)
        yield from self._evidence_lies(first)

    def _put_together(self, first: Bundle, second: Bundle) -> Iterator[Callable[[], object]]:
        from edgewarden.wire.evidence import decode_result, encode_result

        told = decode_result(cose.open_envelope(first.result, ContentType.RESULT).payload)
        key = self.desk.verifier_key
        for changes in ({"nonce": bytes(32)}, {"evidence": bytes(32)}):
            payload = encode_result(replace(told, **changes))  # type: ignore[arg-type]
            data = cose.seal(payload, ContentType.RESULT, key.kid, key.sign)
            yield lambda data=data: test_again.again(  # type: ignore[misc]
                self.desk, replace(first, result=data)
            )

    def _evidence_lies(self, first: Bundle) -> Iterator[Callable[[], object]]:
        envelope = cose.open_envelope(first.evidence, ContentType.EVIDENCE)
        chain, stranger = list(envelope.x5chain), FileSigner.generate()
        made = {
            "kid": cose.seal(
                envelope.payload,
                ContentType.EVIDENCE,
                stranger.kid,
                self.board.identity.sign,
                chain,
            ),
            "signature": cose.seal(
                envelope.payload, ContentType.EVIDENCE, envelope.kid, stranger.sign, chain
            ),
        }
        for data in made.values():
            yield lambda data=data: test_again.again(  # type: ignore[misc]
                self.desk, replace(first, evidence=data)
            )

    def sealed_lies(self) -> Iterator[Callable[[], object]]:
        key, other = self.desk.verifier_key, FileSigner.generate()
        yield lambda: bundle.unseal(self.sealed, other.public_key())
        envelope = cose.open_envelope(self.sealed, ContentType.APPRAISAL, bundle.MAX_BUNDLE_BYTES)
        forged = cose.seal(envelope.payload, ContentType.APPRAISAL, key.kid, other.sign)
        yield lambda: bundle.unseal(forged, key.public_key())
        from edgewarden.wire import cbor

        body = cbor.decode(envelope.payload)
        assert isinstance(body, dict)
        facts = bundle.encode_facts(self.bundles[0].facts)
        fields = cbor.decode(facts)
        assert isinstance(fields, dict)
        bodies: list[object] = [
            [1], [1, 0, *range(2, 8)], {**body, 6: {}}, {**body, 0: 2}, {**body, 9: 0},
            {**body, 8: 0},
            {**body, 1: "A"}, {**body, 2: 7},
            {**body, 6: b"x"}, {**body, 3: "x"}, {**body, 6: ["x"]},
            {**body, 5: cbor.encode([1])}, {**body, 5: cbor.encode([1, 0, *range(2, 14)])},
            {**body, 5: cbor.encode({**fields, 0: 2})}, {**body, 5: cbor.encode({**fields, 14: 0})},
        ]  # fmt: skip
        for one in bodies:
            data = cose.seal(cbor.encode(one), ContentType.APPRAISAL, key.kid, key.sign)  # type: ignore[arg-type]
            yield lambda data=data: bundle.unseal(data, key.public_key())  # type: ignore[misc]

    def set_lies(self) -> Iterator[Callable[[], object]]:
        key, other = self.desk.verifier_key, FileSigner.generate()
        yield lambda: references.believe(self.set, other.public_key(), TENANT)
        yield lambda: references.believe(self.set, key.public_key(), "other")
        envelope = cose.open_envelope(self.set, ContentType.REFERENCES)
        forged = cose.seal(envelope.payload, ContentType.REFERENCES, key.kid, other.sign)
        yield lambda: references.believe(forged, key.public_key(), TENANT)

    def late_lies(self) -> Iterator[Callable[[], object]]:
        for _, lie in test_late.CASES:

            def told(lie: Callable[[Desk, Board], test_late.Made] = lie) -> None:
                self.desk.db.execute("DELETE FROM finding")
                self.desk.record(lie(self.desk, self.board))
                for text in test_late.findings(self.desk):
                    raise WireRefusal(text.split(": ")[1])

            yield told


def outcomes(folder: Path) -> Generator[str, None, None]:
    scene = Scene(folder)
    try:
        lies = itertools.chain(
            scene.bundle_lies(), scene.sealed_lies(), scene.set_lies(), scene.late_lies()
        )
        yield from map(outcome, lies)
    finally:
        scene.desk.close()


MUTANTS = list(mutants())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return list(outcomes(tmp_path_factory.mktemp("whole")))


def test_every_lie_is_refused_to_begin_with(whole: list[str]) -> None:
    assert "accepted" not in whole
    assert not [name for name in whole if name.endswith("Error")]
    assert len(MUTANTS) >= 15


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_each_check_is_held(mutant: Mutant, whole: list[str], tmp_path: Path) -> None:
    put_back = without_check(mutant)
    told = outcomes(tmp_path)
    try:
        differs = any(one != other for one, other in itertools.zip_longest(told, whole))
        assert differs, "this check can be removed and no lie notices"
    finally:
        told.close()
        put_back()
