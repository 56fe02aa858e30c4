"""Who a certificate says it is: one name from its SAN URI, and the digest of its key.

OpenSSL has verified the certificate before anything here looks at it (chain, dates, purpose); what
is left is two fields. Nothing but the SAN URI names a device: not the subject, not an address, not
a name that the device gives in MQTT or HTTP.

    name_of([("URI", "urn:edgewarden:device:press-1")], "urn:edgewarden:device:") == "press-1"

The key is read by walking the DER up to SubjectPublicKeyInfo (RFC 5280 §4.1): ``cryptography``'s
X.509 parser costs this process 7 MB (trust/keys.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from edgewarden.errors import WireRefusal
from edgewarden.wire.record import is_identifier

MAX_NAME = 24
"""64 devices (lineage.py) with names so long are 4 kB of evidence, which holds 8 with the rest."""
_URI = "URI"
_SEQUENCE, _VERSION = 0x30, 0xA0
_BEFORE_KEY = 5  # serialNumber, signature, issuer, validity, subject


def name_of(alternatives: Iterable[object], prefix: str) -> str:
    """The device's name.

    Args:
        alternatives: the subject's alternative names, as ``ssl`` gives them.
        prefix: what a device's URI begins with; the rest is its name.

    Raises:
        WireRefusal: ``no_name``, ``two_names`` (which one would be meant?), ``foreign_name``.
    """
    pairs = [value for value in alternatives if isinstance(value, tuple) and len(value) == 2]
    uris = [str(text) for kind, text in pairs if kind == _URI]
    if not uris:
        raise WireRefusal("no_name", "its certificate has no URI among its names")
    if len(uris) > 1:
        raise WireRefusal("two_names", "its certificate has more than one URI")
    if not uris[0].startswith(prefix):
        raise WireRefusal("foreign_name", f"its URI does not begin with {prefix}")
    name = uris[0][len(prefix) :]
    if not is_identifier(name) or len(name) > MAX_NAME:
        raise WireRefusal("foreign_name", f"after the prefix no name of at most {MAX_NAME}")
    return name


def public_key_info(der: bytes) -> bytes:
    """SubjectPublicKeyInfo of a certificate, with its head.

    Raises:
        WireRefusal: ``bad_certificate``.
    """
    _, inside, _ = _element(der, _SEQUENCE)
    _, rest, _ = _element(inside, _SEQUENCE)
    if rest[:1] == bytes([_VERSION]):
        rest = _element(rest, _VERSION)[2]
    for _ in range(_BEFORE_KEY):
        rest = _element(rest)[2]
    return _element(rest, _SEQUENCE)[0]


def key_digest(der: bytes) -> bytes:
    """SHA-256 of a certificate's SubjectPublicKeyInfo: what is pinned."""
    return hashlib.sha256(public_key_info(der)).digest()


def _element(data: bytes, tag: int | None = None) -> tuple[bytes, bytes, bytes]:
    """(whole, value, what follows) of the first DER element."""
    if len(data) < 2 or (tag is not None and data[0] != tag):
        raise WireRefusal("bad_certificate", "it is not the structure of a certificate")
    head = 2 + (data[1] & 0x7F if data[1] & 0x80 else 0)
    size = int.from_bytes(data[2:head], "big") if data[1] & 0x80 else data[1]
    if len(data) < head + size:
        raise WireRefusal("bad_certificate", "it is cut")
    return data[: head + size], data[head : head + size], data[head + size :]
