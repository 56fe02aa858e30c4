"""A key file sealed to a secret that does not lie beside it (grades G0+ and G1).

    -----BEGIN EDGEWARDEN SEALED KEY-----
    base64(version || source || nonce || ChaCha20-Poly1305(PKCS#8))
    -----END EDGEWARDEN SEALED KEY-----

The key-encryption key is HKDF-SHA256 of the secret, its label naming version and source, and the
head is authenticated: a file sealed to one source opens with no other. The nonce is a MAC of what
is sealed: two keys never share one, and no randomness is asked for.

    source 1, G0+   a systemd credential, from LoadCredentialEncrypted=. Its host key lies on the
                    same disk: other users and file backups are kept out, a cloned card is not
    source 2, G1    a secret of the board (board.py): the file opens on this board alone

Open again, the key is a file key in this process's memory (keys.FileSigner), and TLS gets it
through a file that exists in memory alone.

    open_sealed(seal(key, 2, secret), {2: secret})
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgewarden.errors import TrustFault
from edgewarden.trust.keys import FileSigner

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

BEGIN, END = "-----BEGIN EDGEWARDEN SEALED KEY-----", "-----END EDGEWARDEN SEALED KEY-----"
CREDENTIAL, BOARD = 1, 2
GRADES = {CREDENTIAL: "G0+", BOARD: "G1"}
_FROM = {CREDENTIAL: "a systemd credential", BOARD: "a secret of this board"}
SECRET_BYTES = 32
"""Least length of a secret: what HKDF makes of less is no better than the less."""
_VERSION = 1
_NONCE_BYTES = 12  # RFC 8439 §2.8
_MAX_BYTES = 2048
_LABEL = b"edgewarden sealed key"
# <linux/memfd.h>: kernel 6.3; older ones answer EINVAL.
_MFD_NOEXEC_SEAL = 0x8


class SealedKey(FileSigner):
    """A file key whose file is sealed; implements ladder.OwnKey."""

    def __init__(self, plain: FileSigner, source: int, pem: bytes) -> None:
        super().__init__(plain.own)
        self._plain = plain.to_pem()
        self._sealed, self._source = pem, source
        self.grade = GRADES[source]

    def to_pem(self) -> bytes:
        """The sealed file."""
        return self._sealed

    def about(self) -> str:
        """One line for a person."""
        return f"a file sealed to {_FROM[self._source]}"

    def present(self, context: ssl.SSLContext, cert_path: Path, key_path: Path) -> None:
        """Make this the context's own key: opened, in memory."""
        fd = _in_memory()
        try:
            os.write(fd, self._plain)
            context.load_cert_chain(cert_path, f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)


def is_sealed(pem: bytes) -> bool:
    """Whether a key file is of this kind."""
    return pem.lstrip().startswith(BEGIN.encode())


def seal(key: FileSigner, source: int, secret: bytes) -> SealedKey:
    """Seal a key's file to a secret of at least SECRET_BYTES; raises TrustFault for less."""
    head = bytes([_VERSION, source])
    kek, plain = _kek(secret, head), key.to_pem()
    nonce = hmac.digest(kek, plain, "sha256")[:_NONCE_BYTES]
    body = _cipher(kek).encrypt(nonce, plain, head)
    text = base64.b64encode(head + nonce + body).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return SealedKey(key, source, "\n".join([BEGIN, *lines, END, ""]).encode())


def open_sealed(pem: bytes, secrets: Mapping[int, bytes]) -> SealedKey:
    """Open a sealed key file.

    Args:
        secrets: source -> secret, of what is at hand here.

    Raises:
        TrustFault: EW-ID-003 when it is garbled, EW-ID-035 when the secret is not here or not the
        one it was sealed to.
    """
    text = pem.decode("ascii", "replace").strip()
    if len(pem) > _MAX_BYTES or not (text.startswith(BEGIN) and text.endswith(END)):
        raise _damaged("it is no sealed key")
    try:
        data = base64.b64decode("".join(text[len(BEGIN) : -len(END)].split()), validate=True)
    except (ValueError, binascii.Error):
        raise _damaged("it is garbled") from None
    head, nonce, body = data[:2], data[2 : 2 + _NONCE_BYTES], data[2 + _NONCE_BYTES :]
    if len(head) != 2 or head[0] != _VERSION or head[1] not in GRADES or not body:
        raise _damaged("it is of no known form")
    secret = secrets.get(head[1])
    if secret is None:
        raise _elsewhere(f"{_FROM[head[1]]} is not to be had here")
    from cryptography.exceptions import InvalidTag

    try:
        plain = _cipher(_kek(secret, head)).decrypt(nonce, body, head)
    except InvalidTag:
        raise _elsewhere(f"{_FROM[head[1]]} does not open it") from None
    return SealedKey(FileSigner.from_pem(plain), head[1], pem)


def _cipher(kek: bytes) -> ChaCha20Poly1305:
    # Here, and not above: who has a plain file need not carry the library's ciphers in memory.
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(kek)


def _kek(secret: bytes, head: bytes) -> bytes:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    if len(secret) < SECRET_BYTES:
        raise _elsewhere(f"the secret has {len(secret)} bytes, at least {SECRET_BYTES} are needed")
    return HKDF(hashes.SHA256(), 32, salt=None, info=_LABEL + head).derive(secret)


def _in_memory() -> int:
    try:
        return os.memfd_create("key", os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
    except OSError:
        return os.memfd_create("key", os.MFD_CLOEXEC)


def _damaged(why: str) -> TrustFault:
    return TrustFault(
        f"the identity key cannot be read: {why}",
        code="EW-ID-003",
        next_step="restore state/identity from a backup of this very device, or enrol again",
    )


def _elsewhere(why: str) -> TrustFault:
    return TrustFault(
        f"the sealed key does not open: {why}",
        code="EW-ID-035",
        next_step="put the card back into its own board; for a credential see docs/keys.md",
    )
