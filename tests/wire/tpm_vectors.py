"""What a real TPM wrote, by name (tests/vectors/tpm/swtpm.txt)."""

from __future__ import annotations

from pathlib import Path

from edgewarden.wire.tpm_quote import TpmQuote

FILE = Path(__file__).parents[1] / "vectors" / "tpm" / "swtpm.txt"
RECORDED: dict[str, bytes] = {
    name: bytes.fromhex(digits)
    for name, digits in (
        line.split(": ")
        for line in FILE.read_text().splitlines()
        if line and not line.startswith("#")
    )
}
PCRS = {n: RECORDED["pcrs"][32 * n : 32 * n + 32] for n in range(11)}
QUOTE = TpmQuote(
    quote=RECORDED["quote"],
    quote_signature=RECORDED["quote_signature"],
    ak_public=RECORDED["ak_public"],
    pcrs=PCRS,
    certify=RECORDED["certify"],
    certify_signature=RECORDED["certify_signature"],
    tls_public=RECORDED["tls_public"],
)
