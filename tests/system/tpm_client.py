"""Asks kernel/tpm.py for one of everything, under whichever interpreter runs this; prints JSON.

Run with agent/ on the path and nothing else of ours: Debian's interpreter has no `cryptography`
that trust/ could use.

    /usr/bin/python3 tests/system/tpm_client.py TCTI ask [PUBLIC PRIVATE]
    /usr/bin/python3 tests/system/tpm_client.py TCTI beside
    /usr/bin/python3 tests/system/tpm_client.py TCTI activate CREDENTIAL SECRET
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from edgewarden.errors import EdgewardenError
from edgewarden.kernel.tpm import Tpm

QUALIFYING = bytes(range(32))
DIGEST = bytes(range(100, 132))
ROUNDS = 50
"""How often each read is repeated: the binding's own way read freed memory 50 times of 50."""


def ask(tpm: Tpm, key: tuple[bytes, bytes] | None) -> dict[str, object]:
    key = key or tpm.make_key()
    tpm.check_key(key)
    attest, signature, pcrs = tpm.quote(QUALIFYING, range(11))
    certified, certify_signature = tpm.certify(key, QUALIFYING)
    said: dict[str, object] = {
        "public": key[0], "private": key[1], "sign": tpm.sign(key, DIGEST),
        "ak": tpm.ak_public(), "quote": attest, "quote_signature": signature,
        "certify": certified, "certify_signature": certify_signature,
        "ek_rsa": tpm.ek_public("rsa"), "ek_ecc": tpm.ek_public("ecc"),
        "certificate_rsa": tpm.ek_certificate("rsa"), "certificate_ecc": tpm.ek_certificate("ecc"),
        "pcrs": [pcrs[n].hex() for n in sorted(pcrs)],
    }  # fmt: skip
    for _ in range(ROUNDS):
        assert tpm.ak_public() == said["ak"]
        assert tpm.quote(QUALIFYING, range(11))[2] == pcrs
    said["transients"] = tpm.transients()
    return {name: v.hex() if isinstance(v, bytes) else v for name, v in said.items()}


def beside(tpm: Tpm) -> dict[str, object]:
    """The two commands that are sent and fetched, with other work between; and work that fails."""
    key = tpm.make_key()
    work = iter(range(10**9))
    for _ in range(ROUNDS):  # once is not enough: who is kept waiting finds the answer there
        with tpm.meanwhile(work):
            attest, signature = tpm.quote_alone(QUALIFYING, range(11))
            signed = tpm.sign(key, DIGEST)
    taken = next(work)
    for _ in range(ROUNDS):
        with tpm.meanwhile(iter(range(2))):
            assert tpm.sign(key, DIGEST)
    try:
        with tpm.meanwhile(failing()):
            tpm.quote_alone(QUALIFYING, range(11))
    except EdgewardenError as fault:
        failed = fault.text
    said = {
        "public": key[0], "ak": tpm.ak_public(), "quote": attest, "quote_signature": signature,
        "sign": signed,
    }  # fmt: skip
    hexed = {name: value.hex() for name, value in said.items()}
    return {**hexed, "taken": taken, "failed": failed, "transients": tpm.transients()}


def failing() -> Iterator[int]:
    yield -1
    raise RuntimeError("a piece that fails")


def main() -> None:
    tcti, what, *more = sys.argv[1:]
    blobs = [bytes.fromhex(text) for text in more]
    try:
        with Tpm(tcti) as tpm:
            if what == "ask":
                print(json.dumps(ask(tpm, (blobs[0], blobs[1]) if blobs else None)))
            elif what == "beside":
                print(json.dumps(beside(tpm)))
            else:
                print(json.dumps({"secret": tpm.activate("rsa", *blobs).hex()}))
    except EdgewardenError as fault:
        print(json.dumps({"code": fault.code, "text": fault.text}))


if __name__ == "__main__":
    main()
