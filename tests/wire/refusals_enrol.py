"""Bodies of an enrolment with a grade and a TPM that must be refused (enrol.py, enrol_tpm.py)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from edgewarden.wire import bodies, enrol, enrol_tpm
from edgewarden.wire.enrol_tpm import Activation, CredentialChallenge, TpmKeys

TOKEN = f"ew1.gw-test.AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8.{'ab' * 32}"
TPM = TpmKeys(b"ek", b"certificate", b"ak", b"tls")
WITH_TPM = enrol.EnrolRequest(TOKEN, "gw-test", "PEM", "G2", "G0", True, TPM)
SEALED = enrol.EnrolRequest(TOKEN, "gw-test", "PEM", "G1")
CHALLENGE = CredentialChallenge(bytes(range(32)), b"credential", b"secret")
ACTIVATION = Activation(bytes(range(32)), b"secret", b"certify", b"signature")

BAD_HEX: tuple[object, ...] = ("", "0", "xx", "AB", "0 1", " 00", 1, None, [], "00" * 1025)
SESSION: tuple[object, ...] = (*BAD_HEX, "00" * 31, "00" * 33)
TPM_FAULTS: dict[str, tuple[object, ...]] = {
    "ek_public": BAD_HEX, "ak_public": BAD_HEX, "tls_public": BAD_HEX,
    "ek_certificate": ("", "0", "xx", "AB", 1, [], "00" * 4097),
}  # fmt: skip
REQUEST_FAULTS: dict[str, tuple[object, ...]] = {
    "token": (1, None), "device": ("GW", 1), "csr": (1, None, "half of a pair: \ud800"),
    "grade": ("G3", "G9", "", None, 2, []), "recorded": ("G9", "", 0, False, []),
    "accept_lower": ("yes", 1, None),
    "tpm": (None, [], 5, {}, {"ek_public": "00"}, sorted(TPM_FAULTS)),
}  # fmt: skip
Parse = Callable[[bytes], object]
ALL: tuple[tuple[str, bytes, Parse, dict[str, tuple[object, ...]]], ...] = (
    ("graded", enrol.encode_request(WITH_TPM), enrol.parse_request, REQUEST_FAULTS),
    ("challenge", enrol_tpm.encode_challenge(CHALLENGE), enrol_tpm.parse_challenge,
     {"session": SESSION, "credential": BAD_HEX, "secret": BAD_HEX}),
    ("activation", enrol_tpm.encode_activation(ACTIVATION), enrol_tpm.parse_activation,
     {"session": SESSION, "secret": BAD_HEX, "certify": BAD_HEX, "certify_signature": BAD_HEX}),
)  # fmt: skip


def faults() -> Iterator[tuple[str, Parse, bytes]]:
    """(label, parser, bytes) of each; all are ``bad_request``."""
    for where, good, parse, wrong in ALL:
        body = json.loads(good)
        for key, values in wrong.items():
            for number, value in enumerate(values):
                yield f"{where}-{key}-{number}", parse, bodies.dump({**body, key: value})
            left = {k: v for k, v in body.items() if k != key}
            yield f"{where}-without-{key}", parse, bodies.dump(left)
        yield f"{where}-with-one-more", parse, bodies.dump({**body, "extra": 1})
        yield f"{where}-other-schema", parse, bodies.dump({**body, "schema": "x"})
        yield f"{where}-not-json", parse, good[:-1]
    good, parse = json.loads(enrol.encode_request(WITH_TPM)), enrol.parse_request
    for key, values in TPM_FAULTS.items():
        for number, value in enumerate(values):
            changed = {**good, "tpm": {**good["tpm"], key: value}}
            yield f"tpm-{key}-{number}", parse, bodies.dump(changed)
    more = {**good, "tpm": {**good["tpm"], "extra": "00"}}
    yield "tpm-with-one-more", parse, bodies.dump(more)
    yield "tpm-below-G2", parse, bodies.dump({**good, "grade": "G1"})
    sealed = json.loads(enrol.encode_request(SEALED))
    yield "G2-without-tpm", parse, bodies.dump({**sealed, "grade": "G2"})
