"""Enrolment with a TPM, the gateway's side: what the TPM shows, and the answer to the challenge.

The endorsement key is the one its maker left a certificate for: P-256 where there is one, RSA else;
without any, P-256 (made in a tenth of a second, where RSA takes a chip ten). Blocks for as long as
that takes; raises HardwareFault, and TrustFault EW-ID-031 when the credential is another TPM's.
"""

from __future__ import annotations

from edgewarden.kernel.tpm import Tpm
from edgewarden.trust.tpmkey import TpmKey
from edgewarden.wire.enrol_tpm import Activation, CredentialChallenge, TpmKeys, qualifying

_KINDS = ("ecc", "rsa")


class TpmEnrolment:
    """One enrolment's talk with the TPM."""

    def __init__(self, tpm: Tpm, key: TpmKey) -> None:
        self._tpm, self._key = tpm, key
        self._kind = "ecc"

    def shown(self) -> TpmKeys:
        """What the request carries."""
        certificate = b""
        for kind in _KINDS:
            certificate = self._tpm.ek_certificate(kind)
            if certificate:
                self._kind = kind
                break
        return TpmKeys(
            ek_public=self._tpm.ek_public(self._kind),
            ek_certificate=certificate,
            ak_public=self._tpm.ak_public(),
            tls_public=self._key.tls_public,
        )

    def answer(self, challenge: CredentialChallenge) -> Activation:
        """Open the credential and certify the TLS key."""
        secret = self._tpm.activate(self._kind, challenge.credential, challenge.secret)
        certify, signature = self._key.certify(qualifying(secret))
        return Activation(challenge.session, secret, certify, signature)
