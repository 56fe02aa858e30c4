"""The same evidence, appraised again: later, or by a second verifier with other keys.

In order, each failure a refusal by name and no verdict:

1. the bundle is signed by the first verifier's key that the caller names      ``bad_signature`` ...
2. the evidence's chain leads to a root that the caller names, at the time of receipt
3. its signature holds, it names the bundle's gateway                          ``wrong_topic``
4. its nonce was answered in time (first verifier's word); late evidence: in a record
5. reference sets: the caller's own, or those in the bundle, held to the key that signed them

Then judged by appraising.judge, at the time of receipt, by this program's rules. The result is
signed by the caller's key and expires as it is issued: it is a statement about the past.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509

from edgewarden.appraise.references import Sets
from edgewarden.errors import WireRefusal
from edgewarden.trust.keys import key_id, verifier_for
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.evidence import MAX_EVIDENCE_BYTES, Result, decode_result
from edgewarden_fleet.verify import appraising
from edgewarden_fleet.verify.bundle import Bundle
from edgewarden_fleet.verify.chain import check_issuing, read_chain
from edgewarden_fleet.verify.references import load


@dataclass(frozen=True, slots=True)
class Again:
    """A second verdict beside the first.

    Attributes:
        differs: facets whose tiers are not the same.
        bad_sets: reference sets that did not hold, with the reason.
    """

    first: Result
    second: Result
    differs: tuple[str, ...]
    bad_sets: dict[bytes, str]


def appraise_again(
    bundle: Bundle, roots: Sequence[x509.Certificate], first_key: bytes, required: Sequence[str],
    now_utc_s: float, own: Sets | None = None,
) -> Again:  # fmt: skip
    """Judge a bundle's evidence once more.

    Args:
        first_key: COSE_Key of the first verifier; it signed the result and the sets in the bundle.
        own: reference sets to go by instead of the bundle's.

    Raises:
        WireRefusal: see the module's docstring.
    """
    first = _result(bundle, first_key)
    given = _given(bundle, roots)
    facts = bundle.facts
    if given.claims.nonce != first.nonce or given.digest() != first.evidence:
        raise WireRefusal("bad_bundle", "the result is about other evidence")
    if not facts.late and not facts.asked_utc_s <= facts.received_utc_s <= facts.expires_utc_s:
        raise WireRefusal("nonce_expired", "the answer did not come within its challenge's time")
    bad: dict[bytes, str] = {}
    if own is None:
        loaded = load(bundle.sets, first_key, bundle.tenant)
        own, bad = loaded.sets, loaded.bad
    judged = appraising.judge(given, facts, own, required)
    second = appraising.result(given, judged.appraisal, judged.policy_hash, now_utc_s, 0)
    differs = tuple(f for f, tier in second.facets.items() if first.facets.get(f) is not tier)
    return Again(first, second, differs, bad)


def _result(bundle: Bundle, first_key: bytes) -> Result:
    envelope = cose.open_envelope(bundle.result, ContentType.RESULT, MAX_EVIDENCE_BYTES)
    if envelope.kid != key_id(first_key):
        raise WireRefusal("unknown_key", "the result is not the named verifier's")
    cose.check_signature(envelope, verifier_for(first_key))
    return decode_result(envelope.payload)


def _given(bundle: Bundle, roots: Sequence[x509.Certificate]) -> appraising.Given:
    envelope = cose.open_envelope(bundle.evidence, ContentType.EVIDENCE, MAX_EVIDENCE_BYTES)
    chain = envelope.x5chain
    if len(chain) == 1 and bundle.issuing:
        chain = (*chain, bundle.issuing)
    identity = read_chain(chain, roots)
    check_issuing(identity, bundle.facts.received_utc_s)
    if key_id(identity.public_key) != envelope.kid:
        raise WireRefusal("bad_header", "kid is not that of the certificate's key")
    cose.check_signature(envelope, verifier_for(identity.public_key))
    given = appraising.open_given(envelope.payload, identity.public_key, bundle.evidence)
    named = {
        (bundle.tenant, bundle.device), (identity.tenant, identity.device),
        (given.claims.tenant, given.claims.device),
    }  # fmt: skip
    if len(named) != 1:
        raise WireRefusal("wrong_topic", "bundle, certificate and claims name different gateways")
    return given
