"""Every message that must be refused, each with the one name it is refused under.

One table, used twice: test_attacks.py runs each attack as it is, test_mutation.py runs all of them
again with one check of the verifier removed at a time. An attack gets a fresh desk with one
enrolled, introduced board and sends one message.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgewarden.enrol.service import device_host, device_urn
from edgewarden.trust.keys import FileSigner
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.evidence import encode_evidence, encode_status
from edgewarden.wire.quoted import encode_payload
from edgewarden.wire.record import Kind, Record, RecordClass, encode_record
from edgewarden_fleet.ca import certificates
from edgewarden_fleet.store import registry
from edgewarden_fleet.verify.pipeline import Verdict
from tests.fleet.makers import NOW, TENANT, Board, Desk, Made, authority, new_key

AUDIT = RecordClass.AUDIT
RSA_KEY = rsa.generate_private_key(65537, 2048)
Attack = Callable[[Desk, Board], Verdict]


def next_record(board: Board) -> Record:
    return board.build(AUDIT, Kind.EVENT, {"n": 1})


def send(desk: Desk, board: Board, record: Record, **how: object) -> Verdict:
    return desk.record(board.sign(record, **how))  # type: ignore[arg-type]


# --- topic and envelope ----------------------------------------------------------------------


def topic_of_nobody(desk: Desk, board: Board) -> Verdict:
    return desk.take("ew/1/main/gw-demo/r/secret", board.event().data)


def foreign_tenant(desk: Desk, board: Board) -> Verdict:
    return desk.take("ew/1/other/gw-demo/r/audit", board.event().data)


def trailing_bytes(desk: Desk, board: Board) -> Verdict:
    made = board.event()
    return desk.take(made.topic, made.data + b"\0")


def too_long(desk: Desk, board: Board) -> Verdict:
    return desk.take(board.topic("r", "audit"), b"\xd2" + bytes(200_000))


def evidence_as_record(desk: Desk, board: Board) -> Verdict:
    nonce = desk.challenge(board.device).nonce
    return desk.take(board.topic("r", "audit"), board.evidence(nonce))


# --- keys ------------------------------------------------------------------------------------


def flipped_signature(desk: Desk, board: Board) -> Verdict:
    made = board.event()
    return desk.take(made.topic, made.data[:-1] + bytes([made.data[-1] ^ 1]))


def altered_payload(desk: Desk, board: Board) -> Verdict:
    made = board.event(note="aaaa")
    return desk.take(made.topic, made.data.replace(b"aaaa", b"aaab"))


def foreign_key_with_our_kid(desk: Desk, board: Board) -> Verdict:
    stranger = FileSigner.generate()
    stranger.kid = board.report.kid
    return send(desk, board, next_record(board), signer=stranger)


def forged_introduction(desk: Desk, board: Board) -> Verdict:
    """The real chain, a stranger's signature."""
    stranger = FileSigner.generate()
    stranger.kid = board.identity.kid
    record = board.build(AUDIT, Kind.REPORT_KEY, {"key": stranger.public_key(), "agent": "x"})
    return send(desk, board, record, signer=stranger)


def kid_of_another_key(desk: Desk, board: Board) -> Verdict:
    signer = FileSigner(board.key)
    signer.kid = bytes(8)
    record = board.build(AUDIT, Kind.REPORT_KEY, {"key": board.report.public_key(), "agent": "x"})
    return send(desk, board, record, signer=signer)


def records_of_a_stranger(desk: Desk, board: Board) -> Verdict:
    """A device that never enrolled, with a report key of its own in the store."""
    other = Board(desk, "gw-other")
    desk.record(other.introduce(AUDIT))
    desk.db.execute("DELETE FROM device WHERE device = 'gw-other'")
    return desk.record(other.event())


def revoked(desk: Desk, board: Board) -> Verdict:
    registry.revoke(desk.db, board.device, "stolen", NOW)
    return desk.record(board.event())


def revoked_introduction(desk: Desk, board: Board) -> Verdict:
    registry.revoke(desk.db, board.device, "stolen", NOW)
    board.start()
    return desk.record(board.introduce(AUDIT))


def introduction(board: Board, chain: list[bytes], key: FileSigner | None = None) -> Made:
    board.start()
    signer = key or board.identity
    record = board.build(AUDIT, Kind.REPORT_KEY, {"key": board.report.public_key(), "agent": "x"})
    return board.sign(record, signer=signer, x5chain=chain)


def unregistered_key(desk: Desk, board: Board) -> Verdict:
    """A certificate our CA issued for this name once, to a key the registry does not hold."""
    key = new_key()
    leaf = certificates.make_gateway(desk.issuing, key.public_key(), TENANT, board.device, NOW)
    chain = [certificates.der(leaf), board.x5chain[1]]
    return desk.record(introduction(board, chain, FileSigner(key)))


def introduction_of_a_stranger(desk: Desk, board: Board) -> Verdict:
    """A certificate of our CA, a device the registry does not know."""
    other = Board(desk, "gw-other")
    desk.db.execute("DELETE FROM device WHERE device = 'gw-other'")
    return desk.record(other.introduce(AUDIT))


def device_on_anothers_topic(desk: Desk, board: Board) -> Verdict:
    other = Board(desk, "gw-other")
    made = introduction(other, other.x5chain)
    return desk.take(board.topic("r", "audit"), made.data)


# --- certificate chains ----------------------------------------------------------------------


def _leaf(
    desk: Desk, board: Board, *, issuer: certificates.Authority | None = None, common: str = "",
    uris: list[str] | None = None, purposes: list[x509.ObjectIdentifier] | None = None,
    ca: bool = False, signs: bool = True, key: object = None, organisations: int = 1,
    commons: int = 1, san: bool = True, outlives: timedelta = timedelta(0),
) -> bytes:  # fmt: skip
    """A leaf with one thing wrong."""
    issuer = issuer or desk.issuing
    names = [x509.NameAttribute(NameOID.COMMON_NAME, common or board.device)]
    names += [x509.NameAttribute(NameOID.COMMON_NAME, "gw-other")] * (commons - 1)
    names += [x509.NameAttribute(NameOID.ORGANIZATION_NAME, TENANT)] * organisations
    begin = desk.issuing.certificate.not_valid_before_utc
    public = key or board.key.public_key()
    usage = x509.KeyUsage(signs, not signs, False, False, False, ca, ca, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(names))
        .issuer_name(issuer.certificate.subject)
        .public_key(public)  # type: ignore[arg-type]
        .serial_number(int(desk.db.execute("SELECT serial FROM device").fetchone()[0], 16))
        .not_valid_before(begin)
        .not_valid_after(desk.issuing.certificate.not_valid_after_utc + outlives)
        .add_extension(x509.BasicConstraints(ca, None), True)
        .add_extension(usage, True)
        .add_extension(x509.ExtendedKeyUsage(purposes or [ExtendedKeyUsageOID.CLIENT_AUTH]), False)
    )
    if san:
        texts = uris if uris is not None else [device_urn(TENANT, board.device)]
        values: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(u) if u.startswith("urn:") else x509.DNSName(u)
            for u in texts
        ]
        builder = builder.add_extension(x509.SubjectAlternativeName(values), False)
    return certificates.der(builder.sign(issuer.key, hashes.SHA256()))


def foreign_ca(desk: Desk, board: Board) -> Verdict:
    _, issuing = authority()
    chain = [_leaf(desk, board, issuer=issuing), certificates.der(issuing.certificate)]
    return desk.record(introduction(board, chain))


def leaf_of_another_issuer(desk: Desk, board: Board) -> Verdict:
    """A leaf that carries our issuing CA's name and was signed by somebody else."""
    forger = certificates.Authority(desk.issuing.certificate, new_key())
    return desk.record(introduction(board, [_leaf(desk, board, issuer=forger), board.x5chain[1]]))


def gateway_as_issuer(desk: Desk, board: Board) -> Verdict:
    """An enrolled gateway signs a certificate for another name with its own."""
    other = Board(desk, "gw-other")
    own = x509.load_der_x509_certificate(other.x5chain[0])
    forged = _leaf(desk, board, issuer=certificates.Authority(own, other.key))
    return desk.record(introduction(board, [forged, other.x5chain[0]]))


def issuer_that_may_not_sign(desk: Desk, board: Board) -> Verdict:
    """A certificate directly under the root that is no CA, used as one."""
    key = new_key()
    plain = _leaf(desk, board, issuer=desk.root, key=key.public_key(), common="server")
    issuer = certificates.Authority(x509.load_der_x509_certificate(plain), key)
    return desk.record(introduction(board, [_leaf(desk, board, issuer=issuer), plain]))


def leaf_that_is_a_ca(desk: Desk, board: Board) -> Verdict:
    return desk.record(introduction(board, [_leaf(desk, board, ca=True), board.x5chain[1]]))


def leaf_that_may_not_sign(desk: Desk, board: Board) -> Verdict:
    return desk.record(introduction(board, [_leaf(desk, board, signs=False), board.x5chain[1]]))


def chain_of_three(desk: Desk, board: Board) -> Verdict:
    chain = [*board.x5chain, certificates.der(desk.root.certificate)]
    return desk.record(introduction(board, chain))


def leaf_alone(desk: Desk, board: Board) -> Verdict:
    return desk.record(introduction(board, board.x5chain[:1]))


def leaf_of_many_kilobytes(desk: Desk, board: Board) -> Verdict:
    leaf = _leaf(desk, board, uris=[device_urn(TENANT, board.device)] * 200)
    return desk.record(introduction(board, [leaf, board.x5chain[1]]))


def rsa_leaf(desk: Desk, board: Board) -> Verdict:
    leaf = _leaf(desk, board, key=RSA_KEY.public_key())
    return desk.record(introduction(board, [leaf, board.x5chain[1]]))


def p384_leaf(desk: Desk, board: Board) -> Verdict:
    key = ec.generate_private_key(ec.SECP384R1())
    leaf = _leaf(desk, board, key=key.public_key())
    return desk.record(introduction(board, [leaf, board.x5chain[1]]))


def no_extensions(desk: Desk, board: Board) -> Verdict:
    begin = desk.issuing.certificate.not_valid_before_utc
    bare = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, board.device)]))
        .issuer_name(desk.issuing.certificate.subject)
        .public_key(board.key.public_key())
        .serial_number(7)
        .not_valid_before(begin)
        .not_valid_after(desk.issuing.certificate.not_valid_after_utc)
        .sign(desk.issuing.key, hashes.SHA256())
    )
    return desk.record(introduction(board, [certificates.der(bare), board.x5chain[1]]))


def server_certificate(desk: Desk, board: Board) -> Verdict:
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH]
    leaf = _leaf(desk, board, purposes=purposes)
    return desk.record(introduction(board, [leaf, board.x5chain[1]]))


def client_and_server_certificate(desk: Desk, board: Board) -> Verdict:
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    leaf = _leaf(desk, board, purposes=purposes)
    return desk.record(introduction(board, [leaf, board.x5chain[1]]))


def fleets_own_certificate(desk: Desk, board: Board) -> Verdict:
    leaf = certificates.make_client(desk.issuing, board.key.public_key(), TENANT, NOW)
    return desk.record(introduction(board, [certificates.der(leaf), board.x5chain[1]]))


def name_of_no_board(desk: Desk, board: Board) -> Verdict:
    """A first board has no number; nothing but a number makes another."""
    leaf = _leaf(desk, board, common=f"{board.device}.1")
    return desk.record(introduction(board, [leaf, board.x5chain[1]]))


def name_of_nobody(desk: Desk, board: Board) -> Verdict:
    leaf = _leaf(desk, board, common=".2", uris=[device_urn(TENANT, "")])
    return desk.record(introduction(board, [leaf, board.x5chain[1]]))


def san_of_another(desk: Desk, board: Board) -> Verdict:
    leaf = _leaf(desk, board, uris=[device_urn(TENANT, "gw-other")])
    return desk.record(introduction(board, [leaf, board.x5chain[1]]))


def host_of_another(desk: Desk, board: Board) -> Verdict:
    """The name that stands for the URI where a CA knows none."""
    leaf = _leaf(desk, board, uris=[device_host(TENANT, "gw-other")])
    return desk.record(introduction(board, [leaf, board.x5chain[1]]))


def host_and_uri(desk: Desk, board: Board) -> Verdict:
    names = [device_urn(TENANT, board.device), device_host(TENANT, board.device)]
    leaf = _leaf(desk, board, uris=names)
    return desk.record(introduction(board, [leaf, board.x5chain[1]]))


def two_names(desk: Desk, board: Board) -> Verdict:
    uris = [device_urn(TENANT, board.device), device_urn(TENANT, "gw-other")]
    return desk.record(introduction(board, [_leaf(desk, board, uris=uris), board.x5chain[1]]))


def two_tenants(desk: Desk, board: Board) -> Verdict:
    leaf = _leaf(desk, board, organisations=2)
    return desk.record(introduction(board, [leaf, board.x5chain[1]]))


def two_devices(desk: Desk, board: Board) -> Verdict:
    leaf = _leaf(desk, board, commons=2)
    return desk.record(introduction(board, [leaf, board.x5chain[1]]))


def expired_certificate(desk: Desk, board: Board) -> Verdict:
    desk.now += 31 * 86400
    return desk.record(introduction(board, board.x5chain))


def expired_issuer(desk: Desk, board: Board) -> Verdict:
    """By a CA that let it outlive itself: ours does not."""
    leaf = _leaf(desk, board, outlives=timedelta(days=365))
    long = desk.enrol(board.device, board.key, leaf=x509.load_der_x509_certificate(leaf))
    desk.now += certificates.ISSUING_DAYS * 86400 + 60
    return desk.record(introduction(board, long))


def certificate_of_tomorrow(desk: Desk, board: Board) -> Verdict:
    desk.now -= 86400
    return desk.record(introduction(board, board.x5chain))


# --- records ---------------------------------------------------------------------------------


def record_of_another_device(desk: Desk, board: Board) -> Verdict:
    return send(desk, board, replace(next_record(board), device="gw-other"))


def class_on_anothers_topic(desk: Desk, board: Board) -> Verdict:
    made = board.sign(next_record(board))
    return desk.take(board.topic("r", "bulk"), made.data)


def garbled_record(desk: Desk, board: Board) -> Verdict:
    payload = encode_record(next_record(board)) + b"\0"
    data = cose.seal(payload, ContentType.RECORD, board.report.kid, board.report.sign)
    return desk.take(board.topic("r", "audit"), data)


def report_by_identity_key(desk: Desk, board: Board) -> Verdict:
    return send(desk, board, next_record(board), signer=board.identity, x5chain=board.x5chain)


def introduction_by_report_key(desk: Desk, board: Board) -> Verdict:
    """A stolen report key cannot introduce another."""
    record = board.build(
        AUDIT, Kind.REPORT_KEY, {"key": FileSigner.generate().public_key(), "agent": "x"}
    )
    return send(desk, board, record, signer=board.report, x5chain=[])


def introduction_without_key(desk: Desk, board: Board) -> Verdict:
    return send(desk, board, board.build(AUDIT, Kind.REPORT_KEY, {"agent": "x"}))


def introduction_of_no_point(desk: Desk, board: Board) -> Verdict:
    key = cose.encode_key(bytes(32), bytes(32))
    return send(desk, board, board.build(AUDIT, Kind.REPORT_KEY, {"key": key, "agent": "x"}))


def key_of_an_earlier_start(desk: Desk, board: Board) -> Verdict:
    stolen = board.report
    board.start()
    desk.record(board.introduce(AUDIT))
    return send(desk, board, next_record(board), signer=stolen)


def old_key_where_its_introduction_was_lost(desk: Desk, board: Board) -> Verdict:
    """Bulk never introduced the stolen key; bulk and audit introduced the next one."""
    stolen = board.report
    desk.record(board.introduce(RecordClass.ALARM))
    board.introduce(RecordClass.BULK)
    board.start()
    for c in RecordClass:
        assert desk.record(board.introduce(c)).accepted
    bulk = board.build(RecordClass.BULK, Kind.EVENT, {"n": 1})
    return send(desk, board, bulk, signer=stolen)


def replayed(desk: Desk, board: Board) -> Verdict:
    made = board.event()
    assert desk.record(made).accepted
    return desk.record(made)


def signed_twice(desk: Desk, board: Board) -> Verdict:
    first = next_record(board)
    assert send(desk, board, first, advance=False).accepted
    return send(desk, board, replace(first, body={"n": 2}))


def another_than_evidence_named(desk: Desk, board: Board) -> Verdict:
    record = next_record(board)
    board.sign(record)
    data = board.evidence(desk.challenge(board.device).nonce)
    assert _evidence(desk, board, data).accepted
    return send(desk, board, replace(record, body={"n": 2}), advance=False)


def second_successor(desk: Desk, board: Board) -> Verdict:
    record = next_record(board)
    return send(desk, board, replace(record, prev=bytes(32)))


# --- status and evidence ---------------------------------------------------------------------


def _status(desk: Desk, board: Board, data: bytes, **how: bool) -> Verdict:
    return desk.take(board.topic("s", "status"), data, **how)


def status_again(desk: Desk, board: Board) -> Verdict:
    data = board.status({})
    assert _status(desk, board, data).outcome == "online"
    return _status(desk, board, data)


def status_of_an_older_connect(desk: Desk, board: Board) -> Verdict:
    old = board.status({})
    assert _status(desk, board, board.status({})).outcome == "online"
    return _status(desk, board, old)


def withheld_status_of_an_earlier_boot(desk: Desk, board: Board) -> Verdict:
    """Never delivered, kept by the broker, sent after the reboot."""
    assert _status(desk, board, board.status({})).outcome == "online"
    withheld = board.status({})
    board.start()
    assert _status(desk, board, board.status({})).outcome == "online"
    return _status(desk, board, withheld)


def status_of_an_earlier_boot_never_seen(desk: Desk, board: Board) -> Verdict:
    """All of its sessions were withheld; its introduction was not."""
    withheld = board.status({})
    board.start()
    assert _status(desk, board, board.status({})).outcome == "online"
    return _status(desk, board, withheld)


def status_from_before_the_next_introduction(desk: Desk, board: Board) -> Verdict:
    """The next boot's own status is not there yet."""
    withheld = board.status({})
    board.start()
    assert desk.record(board.introduce(AUDIT)).accepted
    return _status(desk, board, withheld)


def status_of_a_boot_of_which_nothing_came(desk: Desk, board: Board) -> Verdict:
    board.start()
    withheld = board.status({})
    board.event()
    board.start()
    assert _status(desk, board, board.status({})).outcome == "online"
    return _status(desk, board, withheld)


def status_of_two_boots_in_turn(desk: Desk, board: Board) -> Verdict:
    board.start()
    assert _status(desk, board, board.status({})).outcome == "online"
    withheld = board.status({})
    board.start()
    assert _status(desk, board, board.status({})).outcome == "online"
    return _status(desk, board, withheld)


def status_of_another_device(desk: Desk, board: Board) -> Verdict:
    return _status(desk, board, board.status({}, device="gw-other"))


def status_out_of_range(desk: Desk, board: Board) -> Verdict:
    return _status(desk, board, board.status({}, session_ns=2**64 - 1))


def status_with_impossible_acknowledgement(desk: Desk, board: Board) -> Verdict:
    return _status(desk, board, board.status({AUDIT: 2**53}))


def status_with_impossible_head(desk: Desk, board: Board) -> Verdict:
    return _status(desk, board, board.status({}, heads={AUDIT: 2**53}))


def unsigned_status(desk: Desk, board: Board) -> Verdict:
    data = board.status({})
    return _status(desk, board, data[:-1] + bytes([data[-1] ^ 1]))


def status_by_report_key(desk: Desk, board: Board) -> Verdict:
    payload = encode_status(_claimed_status(board))
    data = cose.seal(payload, ContentType.STATUS, board.report.kid, board.report.sign)
    return _status(desk, board, data)


def _claimed_status(board: Board):  # type: ignore[no-untyped-def]
    from edgewarden.wire.evidence import Status

    return Status(TENANT, board.device, board.boot_id, 9**9, True, {}, {})


def _evidence(desk: Desk, board: Board, data: bytes) -> Verdict:
    return desk.take(board.topic("e", "evidence"), data)


def evidence_unasked(desk: Desk, board: Board) -> Verdict:
    return _evidence(desk, board, board.evidence(os.urandom(32)))


def evidence_twice(desk: Desk, board: Board) -> Verdict:
    data = board.evidence(desk.challenge(board.device).nonce)
    assert _evidence(desk, board, data).accepted
    return _evidence(desk, board, data)


def evidence_too_late(desk: Desk, board: Board) -> Verdict:
    data = board.evidence(desk.challenge(board.device).nonce)
    desk.now += desk.settings.nonce_ttl_s + 1
    return _evidence(desk, board, data)


def evidence_for_anothers_challenge(desk: Desk, board: Board) -> Verdict:
    other = Board(desk, "gw-other")
    return _evidence(desk, board, board.evidence(desk.challenge(other.device).nonce))


def evidence_of_another_device(desk: Desk, board: Board) -> Verdict:
    nonce = desk.challenge(board.device).nonce
    return _evidence(desk, board, board.evidence(nonce, device="gw-other"))


def forged_evidence(desk: Desk, board: Board) -> Verdict:
    nonce = desk.challenge(board.device).nonce
    stranger = FileSigner.generate()
    data = cose.seal(
        encode_payload(encode_evidence(board.claims(nonce)), None), ContentType.EVIDENCE,
        board.identity.kid,
        stranger.sign, board.x5chain,
    )  # fmt: skip
    return _evidence(desk, board, data)


def evidence_with_impossible_head(desk: Desk, board: Board) -> Verdict:
    nonce = desk.challenge(board.device).nonce
    return _evidence(desk, board, board.evidence(nonce, heads={AUDIT: (2**53, bytes(32))}))


def evidence_by_report_key(desk: Desk, board: Board) -> Verdict:
    nonce = desk.challenge(board.device).nonce
    payload = encode_payload(encode_evidence(board.claims(nonce)), None)
    data = cose.seal(payload, ContentType.EVIDENCE, board.report.kid, board.report.sign)
    return _evidence(desk, board, data)


ATTACKS: dict[str, list[Attack]] = {
    "bad_topic": [topic_of_nobody],
    "wrong_tenant": [foreign_tenant],
    "trailing_bytes": [trailing_bytes, garbled_record],
    "too_long": [too_long],
    "wrong_type": [evidence_as_record],
    "bad_signature": [
        flipped_signature, altered_payload, foreign_key_with_our_kid, forged_introduction,
        forged_evidence, unsigned_status,
    ],
    "bad_header": [kid_of_another_key],
    "unregistered": [records_of_a_stranger, introduction_of_a_stranger, unregistered_key],
    "revoked": [revoked, revoked_introduction],
    "bad_chain": [
        foreign_ca, leaf_of_another_issuer, gateway_as_issuer, issuer_that_may_not_sign,
        leaf_that_is_a_ca, leaf_that_may_not_sign, chain_of_three, leaf_alone,
        leaf_of_many_kilobytes, rsa_leaf, p384_leaf,
        no_extensions, evidence_by_report_key, status_by_report_key,
    ],
    "wrong_purpose": [server_certificate, client_and_server_certificate],
    "bad_name": [
        fleets_own_certificate, name_of_no_board, name_of_nobody, san_of_another, host_of_another,
        host_and_uri, two_names, two_tenants, two_devices,
    ],
    "cert_expired": [expired_certificate, expired_issuer],
    "cert_not_yet_valid": [certificate_of_tomorrow],
    "wrong_topic": [
        device_on_anothers_topic, record_of_another_device, class_on_anothers_topic,
        status_of_another_device, evidence_of_another_device,
    ],
    "wrong_signer": [report_by_identity_key, introduction_by_report_key],
    "bad_record": [introduction_without_key],
    "bad_key": [introduction_of_no_point],
    "stale_key": [key_of_an_earlier_start, old_key_where_its_introduction_was_lost],
    "replay": [replayed],
    "fork": [signed_twice, second_successor, another_than_evidence_named],
    "stale_session": [
        status_again, status_of_an_older_connect, withheld_status_of_an_earlier_boot,
        status_of_an_earlier_boot_never_seen, status_from_before_the_next_introduction,
        status_of_a_boot_of_which_nothing_came, status_of_two_boots_in_turn,
    ],
    "bad_evidence": [evidence_with_impossible_head],
    "bad_status": [
        status_out_of_range, status_with_impossible_acknowledgement, status_with_impossible_head,
    ],
    "nonce_unknown": [evidence_unasked],
    "nonce_used": [evidence_twice],
    "nonce_expired": [evidence_too_late],
    "nonce_foreign": [evidence_for_anothers_challenge],
}  # fmt: skip
CASES = [(name, attack) for name, attacks in ATTACKS.items() for attack in attacks]


def prepare(desk: Desk) -> Board:
    """One board, enrolled, with one accepted introduction."""
    board = Board(desk)
    assert desk.record(board.introduce(AUDIT)).accepted
    return board
