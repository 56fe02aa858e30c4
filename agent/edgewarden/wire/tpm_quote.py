"""One quote of a TPM on its way: bytes as the chip gave them, for whoever need not read them.

Reading is wire/tpm.py's, with its tables; a gateway whose key is in no TPM loads this file alone.

    TpmQuote(quote=..., quote_signature=..., ak_public=..., pcrs={0: ...}, certify=..., ...)
"""

from __future__ import annotations

from collections.abc import Mapping

from edgewarden.plain import dataclass, field

QUOTE_PCRS = frozenset(range(11))
"""PCR 0 to 10 of the SHA-256 bank: firmware, boot loader, kernel (0-9) and IMA (10). Exactly
these; a quote over fewer is not appraised."""
MAX_STRUCT_BYTES = 1024
"""An RSA-2048 public area is 314 bytes, a quote over four banks about 180."""


@dataclass(frozen=True, slots=True)
class TpmQuote:
    """One quote and what is needed to appraise it, in TPM wire forms.

    Attributes:
        quote, quote_signature: TPMS_ATTEST and TPMT_SIGNATURE by the attestation key.
        ak_public: TPMT_PUBLIC of the attestation key.
        pcrs: PCR number -> value, SHA-256 bank.
        certify, certify_signature: the TLS key certified by the attestation key.
        tls_public: TPMT_PUBLIC of the TLS key.
    """

    quote: bytes
    quote_signature: bytes
    ak_public: bytes
    pcrs: Mapping[int, bytes] = field(repr=False)
    certify: bytes
    certify_signature: bytes
    tls_public: bytes
