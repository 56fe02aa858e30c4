"""No refusal about keys and tokens is decoration: remove any one, and a case below ends otherwise.

The same machine as test_mutation.py, over trust/ (key files, grades) and the desk (tokens, nonces);
the table is of plain calls, so that a mutant costs milliseconds.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from edgewarden.errors import EdgewardenError
from edgewarden.trust import ladder, sealed, tsskey
from edgewarden.trust.keys import FileSigner
from edgewarden.trust.ladder import Keys
from edgewarden.wire.enrol import EnrolRequest, Token
from edgewarden_fleet.desk import renewal, tokens
from edgewarden_fleet.desk.tokens import Office, enrol_device, new_token
from edgewarden_fleet.store import registry
from edgewarden_fleet.store.schema import open_store
from tests.fleet.makers import NOW, new_key
from tests.fleet.test_certificates import request
from tests.fleet.test_folder import make
from tests.fleet.test_mutation import Mutant, mutants, without_check

FUNCTIONS: list[Callable[..., object]] = [
    tsskey.read, tsskey.public_area, tsskey._take, sealed.open_sealed, sealed._kek,
    ladder.check_lower, Keys.open, tokens._read_token, tokens.enrol_device, registry.check_token,
    renewal.Nonces.use,
]  # fmt: skip
SECRET = bytes(range(32))
SECRETS = {sealed.BOARD: SECRET}
FILE = FileSigner.generate()
SEALED = sealed.seal(FILE, sealed.BOARD, SECRET).to_pem()
PUBLIC, PRIVATE = b"\x00\x56" + bytes(86), b"\x00\x7e" + bytes(126)
TSS = tsskey.write(PUBLIC, PRIVATE)


def inner(pem: bytes) -> bytes:
    return base64.b64decode(b"".join(pem.split(b"\n")[1:-2]))


def around(module: object, data: bytes) -> bytes:
    begin, end = module.BEGIN, module.END  # type: ignore[attr-defined]
    return f"{begin}\n{base64.b64encode(data).decode()}\n{end}\n".encode()


def tss(data: bytes) -> Callable[[], object]:
    return lambda: tsskey.read(data)


def opens(data: bytes, secrets: dict[int, bytes] = SECRETS) -> Callable[[], object]:
    return lambda: sealed.open_sealed(data, secrets)


def der(change: Callable[[bytes], bytes]) -> Callable[[], object]:
    return tss(around(tsskey, change(inner(TSS))))


def box(change: Callable[[bytes], bytes]) -> Callable[[], object]:
    return opens(around(sealed, change(inner(SEALED))))


FILES: dict[str, tuple[Callable[[], object], str]] = {
    "tss good": (tss(TSS), ""),
    "tss long": (tss(TSS.replace(b"\n", b"\n" * 500)), "no TSS2"),
    "tss begin": (tss(TSS.replace(b"BEGIN TSS2", b"BEGIN TSS3")), "no TSS2"),
    "tss end": (tss(TSS.replace(b"END TSS2", b"END TSS3")), "no TSS2"),
    "tss follows": (der(lambda d: d + b"\0"), "a password"),
    "tss password": (der(lambda d: d.replace(b"\1\1\xff", b"\1\1\0")), "a password"),
    "tss one more": (
        der(lambda d: b"\x30\x81" + bytes([d[2] + 2]) + d[3:] + b"\4\0"),
        "bytes follow",
    ),
    "tss tag": (der(lambda d: d.replace(b"\4\x58", b"\5\x58")), "not DER"),
    "tss BER": (der(lambda d: b"\x30\x82\0" + d[2:]), "not DER"),
    "tss nothing": (der(lambda d: b""), "structure"),
    "public cut": (lambda: tsskey.public_area(PUBLIC[:-1]), "is cut"),
    "public none": (lambda: tsskey.public_area(b"\0"), "is cut"),
    "sealed good": (opens(SEALED), ""),
    "sealed long": (opens(SEALED.replace(b"\n", b"\n" * 500)), "no sealed key"),
    "sealed begin": (opens(SEALED.replace(b"BEGIN E", b"BEGIN F")), "no sealed key"),
    "sealed end": (opens(SEALED.replace(b"END E", b"END F")), "no sealed key"),
    "sealed nothing": (box(lambda d: b""), "no known form"),
    "sealed a byte": (box(lambda d: d[:1]), "no known form"),
    "sealed version": (box(lambda d: b"\2" + d[1:]), "no known form"),
    "sealed source": (box(lambda d: d[:1] + b"\7" + d[2:]), "no known form"),
    "sealed no body": (box(lambda d: d[:14]), "no known form"),
    "sealed elsewhere": (opens(SEALED, {}), "not to be had"),
    "sealed other": (opens(SEALED, {sealed.BOARD: SECRET[::-1]}), "does not open"),
    "secret short": (lambda: sealed.seal(FILE, sealed.BOARD, SECRET[:31]), "31 bytes"),
    "lower": (lambda: ladder.check_lower("G0", "G2", ""), "was G2"),
    "lower, meant": (lambda: ladder.check_lower("G0", "G2", "G0"), ""),
    "kept otherwise": (lambda: Keys().open(FILE.to_pem(), "G2"), "enrolled as G2"),
    "kept as recorded": (lambda: Keys().open(FILE.to_pem(), "G0"), ""),
}


@dataclass
class World:
    """A fleet folder with a token, used again and again: nothing below changes it."""

    office: Office
    db: object
    token: Token
    used: Token
    old: Token
    foreign: Token
    revoked: Token
    key: object
    spent_by: object

    def asks(
        self, token: Token, device: str = "gw-demo", grade: str = "G0", at: float = NOW
    ) -> Callable[[], object]:
        wanted = EnrolRequest(str(token), device, request(self.key), grade)
        return lambda: enrol_device(self.db, self.office, wanted, at)  # type: ignore[arg-type]

    def cases(self) -> dict[str, tuple[Callable[[], object], str]]:
        nonces = renewal.Nonces(60)
        nonce, twice = nonces.make("gw-a", 1, NOW), nonces.make("gw-a", 2, NOW)
        nonces.use(twice, "gw-a", NOW)
        never = replace(self.token, secret=bytes(32))
        return {
            "another device": (self.asks(self.token, "gw-other"), "token_foreign_device"),
            "another fleet": (self.asks(self.foreign), "token_foreign_ca"),
            "G2 of no TPM": (self.asks(self.token, grade="G2"), "tpm_keys"),
            "never issued": (self.asks(never), "token_unknown"),
            "relabelled": (
                self.asks(replace(self.token, device="gw-other"), "gw-other"),
                "token_foreign_device",
            ),
            "labelled otherwise": (
                self.asks(replace(self.token, device="gw-x")),
                "token_foreign_device",
            ),
            "used": (self.asks(self.used, "gw-used"), "token_used"),
            "late": (self.asks(self.old, at=NOW + 61), "token_expired"),
            "revoked": (self.asks(self.revoked, "gw-gone"), "revoked"),
            "nonce of another": (lambda: nonces.use(nonce, "gw-b", NOW), "nonce_unknown"),
            "nonce late": (lambda: nonces.use(nonce, "gw-a", NOW + 61), "nonce_expired"),
            "nonce early": (lambda: nonces.use(nonce, "gw-a", NOW - 9), "nonce_expired"),
            "nonce twice": (lambda: nonces.use(twice, "gw-a", NOW), "nonce_used"),
        }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    place: Path = tmp_path_factory.mktemp("keys")
    folder, other = make(place / "fleet"), make(place / "other")
    db = open_store(folder.database)
    office = Office.open(folder)

    def token(device: str = "gw-demo", ttl_s: int = 3600) -> Token:
        return new_token(db, folder.root(), device, NOW, ttl_s)

    made = World(
        office, db, token(), token("gw-used"), token(ttl_s=60),
        replace(token(), ca_sha256=Office.open(other).root_sha256()), token("gw-gone"),
        new_key(), new_key(),
    )  # fmt: skip
    for one, device in ((made.used, "gw-used"), (made.revoked, "gw-gone")):
        enrol_device(db, office, EnrolRequest(str(one), device, request(made.spent_by)), NOW)
        made.spent_by = new_key()
    registry.revoke(db, "gw-gone", "stolen", NOW)
    db.execute("UPDATE token SET used_by = ? WHERE device = 'gw-gone'", (b"",))
    db.execute("UPDATE token SET used_utc_s = NULL WHERE device = 'gw-gone'")
    yield made
    db.close()


def wrong(world: World) -> list[str]:
    """Cases that do not end as they should."""
    return [
        name
        for name, (call, expected) in {**FILES, **world.cases()}.items()
        if not _ends(call, expected)
    ]


def _ends(call: Callable[[], object], expected: str) -> bool:
    try:
        call()
    except EdgewardenError as fault:
        return bool(expected) and expected in f"{getattr(fault, 'name', '')} {fault.text}"
    except Exception:
        return False
    return not expected


MUTANTS = list(mutants(FUNCTIONS))


def test_as_it_stands_every_case_ends_as_it_should(world: World) -> None:
    assert wrong(world) == []
    assert len(MUTANTS) >= 25


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_each_refusal_is_held_by_a_case(mutant: Mutant, world: World) -> None:
    put_back = without_check(mutant)
    try:
        assert wrong(world), "this refusal can be removed and no case notices"
    finally:
        put_back()
