"""What a key in a TPM costs: a mutual TLS handshake, beside one with a key in a file.

The clients are processes of their own against one server; its key is a file. They take turns, one
block after the other, RUNS times; a figure is a block's median handshake, from connect to the echo
of a byte that the server sends after it has seen the client's signature. Beside it stand, of the
same run, what no way to a TPM can go below (a file key's handshake and one bare signature by that
TPM) and OpenSSL's own way (tpm2-openssl). swtpm is a floor: a chip takes tenths of a second for the
signature alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

from edgewarden.kernel.tpm import Tpm
from edgewarden.trust.tpmkey import TpmKey
from hw.rigs.tpm import Bus, SoftTpm
from tests.bench.place import Place
from tests.bench.rows import Figure, Spec, middle
from tests.broker import Pki
from tests.system.tpm_tls import client, server

HANDSHAKES = 60
RUNS = 5

SPECS = (
    Spec("identity.tpm-handshake", f"p50 of {HANDSHAKES} TLS 1.3 handshakes, TPM key / file key",
         "x", 2.0),
    Spec("identity.tpm-sign", "p50 of an ES256 signature by the TPM key", "ms", 5.0),
    Spec("identity.tpm-quote", "p50 of a quote over PCR 0 to 10, PCRs read before and after", "ms",
         5.0),
)  # fmt: skip
"""Issue 5 names the first and evidence's whole (5 ms with swtpm); the others are parts of that."""


def measure(place: Place) -> Iterator[Figure]:
    """Figures of this area."""
    folder = place.folder
    pki = Pki(folder / "pki")
    files = pki.issue("bench-file")
    with Bus(folder / "bus") as bus, SoftTpm(folder / "tpm", bus) as soft:
        os.environ.update(bus.environment)
        with Tpm(soft.tcti) as tpm:
            key = TpmKey.generate(tpm)
            cert, path = pki.issue("bench-tpm", key=key.private_key().public_key())
            path.write_bytes(key.to_pem())
            yield from _alone(key)
            with server(*pki.issue("server", server=True), pki.ca) as port:
                yield _handshakes(soft, key, pki, port, files, (cert, path))


def _alone(key: TpmKey) -> Iterator[Figure]:
    quoter = key.quoter()
    quoter.quote(bytes(32))
    for name, work in (
        ("sign", lambda: key.sign(b"message")),
        ("quote", lambda: quoter.quote(bytes(32))),
    ):
        yield Figure(f"identity.tpm-{name}", _each_ms(work), "swtpm, tpm2-abrmd", HANDSHAKES)


def _each_ms(work: Callable[[], object]) -> float:
    """The median of HANDSHAKES."""
    spent = []
    for _ in range(HANDSHAKES):
        began = perf_counter()
        work()
        spent.append(1000 * (perf_counter() - began))
    return middle(spent)


def _handshakes(
    soft: SoftTpm,
    key: TpmKey,
    pki: Pki,
    port: int,
    file_pair: tuple[Path, Path],
    tpm_pair: tuple[Path, Path],
) -> Figure:
    ways = (
        ("file", None, file_pair), ("tpm", soft.tcti, tpm_pair), ("provider", soft.tcti, tpm_pair),
    )  # fmt: skip
    runs, recipes = [], dict[str, str]()
    for _ in range(RUNS):
        spent = {}
        for name, tcti, pair in ways:
            asked = {"tcti": tcti, "cert": str(pair[0]), "key": str(pair[1]), "ca": str(pki.ca),
                     "port": port, "count": HANDSHAKES, "provider": name == "provider"}  # fmt: skip
            said = client(asked, soft.bus.environment)
            spent[name] = 1000 * middle(said["times_s"])
            recipes[name] = said["recipe"]
        spent["sign"] = _each_ms(lambda: key.sign(b"message"))
        runs.append(spent)

    def of_file(ms: Callable[[dict[str, float]], float]) -> float:
        return middle(ms(one) / one["file"] for one in runs)

    floor = of_file(lambda one: one["file"] + one["sign"])
    provider = of_file(lambda one: one["provider"])
    against = (
        f"{middle(one['file'] for one in runs):.2f} ms with a file; with one bare signature more"
        f" x {floor:.2f}; by {recipes['provider']} x {provider:.2f}"
    )
    ratio = of_file(lambda one: one["tpm"])
    return Figure("identity.tpm-handshake", ratio, against, RUNS, recipes["tpm"])
