"""A verifier by a stranger, from docs/wire-format.md, with pycose, cryptography and cbor2.

    mosquitto_sub ... -t 'ew/1/#' -F '%t %x' | python verify.py ca.pem [--verifier-key HEX]

Prints a line per message, ``accepted TOPIC ...`` or ``refused NAME TOPIC ...``; exit code 1 if any
was refused. Imports nothing of edgewarden; section numbers are those of the page.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import struct
import sys
from datetime import UTC, datetime

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID
from pycose.keys import EC2Key
from pycose.keys.curves import P256
from pycose.messages import CoseMessage, Sign1Message

TYPES = {  # §1: group/name -> content type, longest message (§8)
    "r/alarm": ("record", 131072), "r/audit": ("record", 131072), "r/bulk": ("record", 131072),
    "r/memory": ("memory", 131072),
    "e/nonce": ("nonce", 8192), "e/evidence": ("evidence", 8192), "e/result": ("result", 8192),
    "s/status": ("status", 8192),
}  # fmt: skip
CLASSES = {"alarm": 1, "audit": 2, "bulk": 3}
ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
HALF_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551 // 2


class Refused(Exception):
    """A refusal by one of the names of §7."""


# --- §3 and §5, fields: message -> key -> is this a value for it ---------------------------------


def uint(value: object, least: int = 0, most: int = 2**64 - 1) -> bool:
    return type(value) is int and least <= value <= most


def blob(*lengths: int):
    return lambda value: isinstance(value, bytes) and len(value) in lengths


def text(value: object) -> bool:
    return isinstance(value, str)


def name(value: object) -> bool:
    return isinstance(value, str) and bool(ID.fullmatch(value))


def one_of(*values: object):
    return lambda value: any(type(value) is type(v) and value == v for v in values)


def each(key, item):
    return lambda value: isinstance(value, dict) and len(value) <= 16 and all(
        key(k) and item(v) for k, v in value.items())  # fmt: skip


def head_of(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and uint(value[0]) and blob(32)(value[1])


def time_of(value: object) -> bool:
    return (
        isinstance(value, list) and len(value) == 4 and uint(value[0]) and uint(value[1])
        and (value[2] is None or uint(value[2])) and uint(value[3], 0, 3)
    )  # fmt: skip


def spent_of(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and uint(value[0], 0, 2**53 - 1) and (
        blob(32)(value[1]) and blob(16)(value[2])
    )  # fmt: skip


def issued_of(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and uint(value[0], 1, 2**53 - 1) and (
        blob(32)(value[1])
    )  # fmt: skip


CLASS, TIER = one_of(1, 2, 3), one_of(0, 2, 32, 96)
GRADE = one_of("G0", "G0+", "G1", "G2", "G3")
FACET = one_of(
    "identity", "freshness", "hardware", "clock", "executables", "programs", "settings", "policy",
    "boot", "ima",
)  # fmt: skip
MEASURED = one_of(
    "code", "interpreter", "settings", "policy", "cmdline", "programs", "ima", "ima_pcr"
)
BOOT = {
    "secure_boot": one_of("on", "off", "absent"),
    "ima": one_of("absent", "unreadable", "bypass", "tpm"),
}


def boot_facts(value: object) -> bool:
    return isinstance(value, dict) and set(value) == set(BOOT) and all(
        BOOT[k](v) for k, v in value.items())  # fmt: skip


FIELDS = {
    "record": {
        0: one_of(1), 1: name, 2: blob(16), 3: CLASS, 4: lambda v: uint(v, 1, 2**53 - 1),
        5: blob(32), 6: time_of, 7: lambda v: text(v) and 1 <= len(v) <= 32,
        8: lambda v: isinstance(v, dict) and all(map(text, v)),
    },
    "nonce": {
        0: one_of(1), 1: name, 2: name, 3: blob(32), 4: uint, 5: uint, 6: one_of(True, False),
    },
    "evidence": {
        2: name, 6: uint, 8: blob(75), 10: blob(32), 261: uint,
        265: one_of("urn:edgewarden:evidence:2"), 268: blob(16), 270: one_of("edgewarden"),
        271: text, -70001: GRADE, -70002: each(MEASURED, blob(0, 32)),
        -70003: each(CLASS, head_of), -70004: each(one_of("tier", "mode"), text), -70005: text,
        -70006: text, -70007: name, -70008: spent_of, -70009: boot_facts,
        -70010: lambda v: v is None or uint(v),
    },
    "result": {
        0: one_of(1), 1: name, 2: name, 3: blob(32), 4: uint, 5: uint, 6: GRADE, 7: TIER,
        8: each(FACET, TIER), 9: each(FACET, text), 10: blob(32),
        11: lambda v: v is None or issued_of(v), 12: text, 13: blob(32),
    },
    "status": {
        0: one_of(1), 1: name, 2: name, 3: blob(16), 4: uint, 5: one_of(True, False),
        6: each(CLASS, uint), 7: each(CLASS, uint),
    },
}  # fmt: skip
FIELDS["memory"] = FIELDS["record"]
BAD = {"nonce": "bad_challenge", "memory": "bad_record"}


def check_fields(kind: str, body: object) -> dict:
    """The body, if every field is there and none is wrong."""
    fields = FIELDS[kind]
    if not isinstance(body, dict) or set(body) != set(fields):
        raise Refused(BAD.get(kind, f"bad_{kind}"))
    if not all(fits(body[key]) for key, fits in fields.items()):
        raise Refused(BAD.get(kind, f"bad_{kind}"))
    return body


def claims_of(body: object) -> bytes:
    """§5: claims, and a TPM's word beside them, which needs the enrolled key to be judged."""
    if not isinstance(body, list) or len(body) != 2 or not isinstance(body[0], bytes):
        raise Refused("bad_evidence")
    if body[1] is not None and not isinstance(body[1], list):
        raise Refused("bad_evidence")
    return body[0]


# --- §6, deterministic CBOR: decode, spell again by the rules, compare ---------------------------


def head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    for more, width in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 256**width:
            return bytes([major << 5 | more]) + number.to_bytes(width, "big")
    raise Refused("forbidden_item")


def spell(value: object, depth: int = 0) -> bytes:
    if depth > 16:
        raise Refused("too_deep")
    if value is None or isinstance(value, bool):
        return {None: b"\xf6", True: b"\xf5", False: b"\xf4"}[value]
    if isinstance(value, int):
        return head(1, -1 - value) if value < 0 else head(0, value)
    if isinstance(value, float):
        return spell_float(value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, (list, tuple)):
        return head(4, len(value)) + b"".join(spell(item, depth + 1) for item in value)
    if isinstance(value, dict) and all(type(key) in (int, str) for key in value):
        items = sorted((spell(key), spell(item, depth + 1)) for key, item in value.items())
        return head(5, len(value)) + b"".join(key + item for key, item in items)
    raise Refused("forbidden_item")


def spell_float(value: float) -> bytes:
    if value != value:
        return b"\xf9\x7e\x00"
    for first, form in ((b"\xf9", ">e"), (b"\xfa", ">f")):
        try:
            if struct.unpack(form, struct.pack(form, value))[0] == value:
                return first + struct.pack(form, value)
        except OverflowError:
            pass
    return b"\xfb" + struct.pack(">d", value)


def decode(data: bytes) -> object:
    stream = io.BytesIO(data)
    try:
        value = cbor2.CBORDecoder(stream).decode()
    except Exception as fault:  # whatever the library says, these bytes are not used
        raise Refused("truncated") from fault
    if stream.tell() != len(data):
        raise Refused("trailing_bytes")
    if spell(value) != data:  # a key that stood twice is missing from the second spelling
        raise Refused("not_deterministic")
    return value


# --- §4, keys and certificates --------------------------------------------------------------------


def cose_key(data: object) -> bytes:
    """x and y in a row, of the encoded COSE_Key."""
    if not isinstance(data, bytes) or len(data) != 75:
        raise Refused("bad_key")
    if data[:8].hex() != "a401022001215820" or data[40:43].hex() != "225820":
        raise Refused("bad_key")
    return data[8:40] + data[43:]


def kid_of(point: bytes) -> bytes:
    key = bytes.fromhex("a401022001215820") + point[:32] + bytes.fromhex("225820") + point[32:]
    return hashlib.sha256(key).digest()[:8]


def believe_chain(chain: object, root: x509.Certificate, tenant: str, device: str) -> bytes:
    """Rules 1 to 6; the leaf's point."""
    if not isinstance(chain, list) or len(chain) != 2:
        raise Refused("bad_chain")
    try:
        leaf, issuing = (x509.load_der_x509_certificate(der) for der in chain)
        issuing.verify_directly_issued_by(root)
        leaf.verify_directly_issued_by(issuing)
        keys = [leaf.public_key(), issuing.public_key()]
        ca = extension(issuing, ExtensionOID.BASIC_CONSTRAINTS).ca
        ca = ca and extension(issuing, ExtensionOID.KEY_USAGE).key_cert_sign
        plain = not extension(leaf, ExtensionOID.BASIC_CONSTRAINTS).ca
        plain = plain and extension(leaf, ExtensionOID.KEY_USAGE).digital_signature
    except Exception as fault:
        raise Refused("bad_chain") from fault
    if not (ca and plain and all(isinstance(k.curve, ec.SECP256R1) for k in keys)):
        raise Refused("bad_chain")
    if list(extension(leaf, ExtensionOID.EXTENDED_KEY_USAGE)) != [ExtendedKeyUsageOID.CLIENT_AUTH]:
        raise Refused("wrong_purpose")
    names = [n.value for n in extension(leaf, ExtensionOID.SUBJECT_ALTERNATIVE_NAME)]
    organisation, common = (
        [a.value for a in leaf.subject.get_attributes_for_oid(oid)]
        for oid in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)
    )
    if len(organisation) != 1 or len(common) != 1:
        raise Refused("bad_name")
    named = re.fullmatch(r"([^.]*)(\.([2-9]|[1-9][0-9]+))?", common[0])
    if named is None or names != [f"urn:edgewarden:device:{organisation[0]}:{named[1]}"]:
        raise Refused("bad_name")
    now = datetime.now(UTC)
    for certificate in (leaf, issuing):
        if now > certificate.not_valid_after_utc:
            raise Refused("cert_expired")
        if now < certificate.not_valid_before_utc:
            raise Refused("cert_not_yet_valid")
    if (organisation[0], named[1]) != (tenant, device):
        raise Refused("wrong_topic")
    numbers = keys[0].public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def extension(certificate: x509.Certificate, oid: x509.ObjectIdentifier):
    return certificate.extensions.get_extension_for_oid(oid).value


# --- §9, the steps --------------------------------------------------------------------------------


class Memory:
    """A chain in memory: where its key says that it begins, and whether its end is known."""

    def __init__(self, behind: int, boot: bytes, boot_ns: int, number: int) -> None:
        self.behind, self.boot, self.boot_ns, self.number = behind, boot, boot_ns, number
        self.ended = False

    def is_after(self, other: Memory) -> bool:
        if self.boot == other.boot:
            return self.boot_ns > other.boot_ns
        return self.number > other.number


class Verifier:
    def __init__(self, root: x509.Certificate, verifier_key: bytes | None) -> None:
        self.root = root
        self.verifier_key = verifier_key
        self.keys: dict[tuple[str, str, bytes], bytes] = {}
        self.hashes: dict[tuple[str, str, int | bytes], dict[int, tuple[bytes, bytes]]] = {}
        self.in_force: dict[tuple[str, str, int], dict[int, bytes]] = {}
        self.came: dict[tuple[str, str], dict[bytes, tuple[bytes, list]]] = {}
        self.memory_keys: dict[tuple[str, str, bytes], bytes] = {}
        self.memories: dict[tuple[str, str], dict[bytes, Memory]] = {}

    def take(self, topic: str, data: bytes) -> str:
        """What is believed, in words; raises Refused."""
        parts = topic.split("/")
        place = "/".join(parts[4:])
        if len(parts) != 6 or parts[:2] != ["ew", "1"] or place not in TYPES:
            raise Refused("bad_topic")
        tenant, device = parts[2:4]
        if not (ID.fullmatch(tenant) and ID.fullmatch(device)):
            raise Refused("bad_topic")
        name, most = TYPES[place]
        if len(data) > most:
            raise Refused("too_long")
        payload, header = self.open(tenant, device, name, data)
        body = decode(payload)
        if name == "evidence":
            body = decode(claims_of(body))
        check_fields(name, body)
        if name == "record":
            return self.record(tenant, device, parts[5], body, header, data)
        if name == "memory":
            return self.memory(tenant, device, body, header, data)
        claimed = (body.get(-70007), body.get(2)) if name == "evidence" else (
            body.get(1), body.get(2))  # fmt: skip
        if claimed != (tenant, device):
            raise Refused("wrong_topic")
        return name

    def open(self, tenant: str, device: str, name: str, data: bytes) -> tuple[bytes, dict]:
        """Steps 2 to 5: payload and protected header of a message whose signature holds."""
        if data[:1] != b"\xd2":
            raise Refused("wrong_tag" if data else "truncated")
        envelope = decode(data[1:])
        if not isinstance(envelope, list) or len(envelope) != 4:
            raise Refused("bad_envelope")
        protected, unprotected, payload, signature = envelope
        if not (isinstance(protected, bytes) and isinstance(payload, bytes)):
            raise Refused("bad_envelope")
        if not isinstance(signature, bytes) or len(signature) != 64:
            raise Refused("bad_envelope")
        header = decode(protected)
        if unprotected != {} or not isinstance(header, dict) or set(header) - {1, 3, 4, 33}:
            raise Refused("bad_header")
        if type(header.get(1)) is not int or header[1] != -7:
            raise Refused("unknown_algorithm")
        kid = header.get(4)
        if not isinstance(kid, bytes) or len(kid) != 8:
            raise Refused("bad_header")
        if header.get(3) != f"application/ew-{name}+cbor":
            raise Refused("wrong_type")
        if 33 in header:
            point = believe_chain(header[33], self.root, tenant, device)
            if kid_of(point) != kid:
                raise Refused("bad_header")
        elif name == "record" and (tenant, device, kid) in self.keys:
            point = self.keys[tenant, device, kid]
        elif name == "memory" and (tenant, device, kid) in self.memory_keys:
            point = self.memory_keys[tenant, device, kid]
        elif name in ("nonce", "result") and self.verifier_key and kid_of(
            self.verifier_key) == kid:  # fmt: skip
            point = self.verifier_key
        else:
            raise Refused("unknown_key")
        if int.from_bytes(signature[32:], "big") > HALF_ORDER:
            raise Refused("bad_signature")
        message = CoseMessage.decode(data)
        assert isinstance(message, Sign1Message)
        message.key = EC2Key(crv=P256, x=point[:32], y=point[32:])
        if not message.verify_signature():
            raise Refused("bad_signature")
        return payload, header

    def record(self, tenant: str, device: str, label: str, body: dict, header: dict, data: bytes):
        """Steps 6 to 8."""
        seq, prev, kind, inner = body[4], body[5], body[7], body[8]
        if body[1] != device or body[3] != CLASSES[label]:
            raise Refused("wrong_topic")
        if (kind == "report-key") is not (33 in header):
            raise Refused("wrong_signer")
        place = (tenant, device, body[3])
        begins = self.in_force.setdefault(place, {})
        if kind == "report-key":
            point = cose_key(inner.get("key"))
        else:
            stretch = [at for at in begins if at < seq]
            in_force = bool(stretch) and begins[max(stretch)] == header[4]
            if not in_force and (
                header[4] in begins.values() or self.followed(tenant, device, header[4])
            ):
                raise Refused("stale_key")
        verdict = self.chain(place, seq, prev, hashlib.sha256(data).digest())
        if kind == "report-key":
            self.keys[tenant, device, kid_of(point)] = point
            begins[seq] = kid_of(point)
            self.came.setdefault((tenant, device), {}).setdefault(kid_of(point), (body[2], body[6]))
        more = ""
        if label == "audit" and verdict != "duplicate":
            more = self.about_memory(tenant, device, body, header[4])
        return f"{label} {seq} {kind} {verdict}{more}"

    # --- §3, in memory ------------------------------------------------------------------------

    def memory(
        self, tenant: str, device: str, body: dict, header: dict, data: bytes, carried: bool = False
    ) -> str:
        """One record of a chain of a report key alone."""
        seq, kind, inner, kid = body[4], body[7], body[8], header[4]
        if body[1] != device:
            raise Refused("wrong_topic")
        introduces = kind == "report-key" and seq == 1
        if introduces is not (33 in header):
            raise Refused("wrong_signer")
        chains = self.memories.setdefault((tenant, device), {})
        if introduces:
            point = cose_key(inner.get("key"))
            if not uint(inner.get("behind"), 0, 2**53 - 1):
                raise Refused("bad_record")
            kid = kid_of(point)
            self.memory_keys.setdefault((tenant, device, kid), point)
            chains.setdefault(kid, Memory(inner["behind"], body[2], body[6][0], len(chains)))
        if not carried and self.is_over(tenant, device, kid):
            raise Refused("stale_key")
        digest = hashlib.sha256(data).digest()
        verdict = self.chain((tenant, device, kid), seq, body[5], digest)
        return f"memory {seq} {kind} {verdict}"

    def place_of(self, tenant: str, device: str, kid: bytes) -> tuple[int, bool]:
        """Behind which record of audit a chain's key stands, and whether only there."""
        begins = self.in_force.get((tenant, device, 2), {})
        own = max((seq for seq, k in begins.items() if k == kid), default=0)
        return max(own, self.memories[tenant, device][kid].behind), not own

    def is_over(self, tenant: str, device: str, kid: bytes) -> bool:
        """Was another key introduced behind this one, in audit or in memory?"""
        begins = self.in_force.get((tenant, device, 2), {})
        chains, own = self.memories[tenant, device], self.place_of(tenant, device, kid)
        if any(k != kid and seq > own[0] for seq, k in begins.items()):
            return True
        for other in chains.keys() - {kid}:
            place = self.place_of(tenant, device, other)
            if place > own or (place == own and chains[other].is_after(chains[kid])):
                return True
        return False

    def about_memory(self, tenant: str, device: str, body: dict, kid: bytes) -> str:
        """What a believed record of audit says of chains in memory, in words."""
        chains = self.memories.get((tenant, device), {})
        if body[7] == "report-key":
            new = kid_of(cose_key(body[8].get("key")))
            cut = [k for k, c in chains.items() if k != new and not c.ended and c.behind < body[4]]
            for k in cut:
                chains[k].ended = True
            return "".join(f" memory_cut {k.hex()}" for k in sorted(cut))
        if body[7] != "memory":
            return ""
        told = body[8]
        if told.get("key") != kid or not uint(told.get("last"), 1):
            return " unreadable"
        refused = 0
        for data in told["records"]:
            try:
                payload, header = self.open(tenant, device, "memory", data)
                inner = check_fields("memory", decode(payload))
                self.memory(tenant, device, inner, header, data, carried=True)
            except Refused:
                refused += 1
        seen = self.hashes.get((tenant, device, kid), {})
        last = seen.get(told["last"])
        if last is not None and last[0] != told["hash"]:
            return " fork"
        if told["more"]:
            return f" carries {len(told['records'])}, refused {refused}, more"
        if kid in chains:
            chains[kid].ended = True
        missing = told["last"] - sum(seq <= told["last"] for seq in seen)
        return f" carries {len(told['records'])}, refused {refused}, memory_gap {missing}"

    def followed(self, tenant: str, device: str, kid: bytes) -> bool:
        """§4: was a later key introduced, in whatever class?"""
        came = self.came[tenant, device]
        places = [self.in_force.get((tenant, device, c), {}) for c in (1, 2, 3)]
        for other in came.keys() - {kid}:
            order = [
                max(at for at, k in begins.items() if k == other)
                > max(at for at, k in begins.items() if k == kid)
                for begins in places
                if kid in begins.values() and other in begins.values()
            ]
            if not order and came[other][0] == came[kid][0]:
                order = [came[other][1][0] > came[kid][1][0]]
            if order[0] if order else list(came).index(other) > list(came).index(kid):
                return True
        return False

    def chain(
        self, place: tuple[str, str, int | bytes], seq: int, prev: bytes, digest: bytes
    ) -> str:
        """§3, chain. Keeps no sessions, so the same bytes again are a duplicate."""
        seen = self.hashes.setdefault(place, {})
        if seq in seen:
            if seen[seq][0] != digest:
                raise Refused("fork")
            return "duplicate"
        before, after = seen.get(seq - 1), seen.get(seq + 1)
        if (seq == 1 and prev != bytes(32)) or (before and before[0] != prev):
            raise Refused("fork")
        if after and after[1] != digest:
            raise Refused("fork")
        highest = max(seen, default=0)
        seen[seq] = (digest, prev)
        if seq < highest:
            return "reordered"
        return "next" if seq == highest + 1 else f"gap of {seq - highest - 1}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ca", help="the root certificate, PEM")
    parser.add_argument("--verifier-key", help="the fleet's verifier key, COSE_Key in hexadecimal")
    arguments = parser.parse_args()
    with open(arguments.ca, "rb") as file:
        root = x509.load_pem_x509_certificate(file.read())
    own = cose_key(bytes.fromhex(arguments.verifier_key)) if arguments.verifier_key else None
    verifier, refused = Verifier(root, own), 0
    for line in sys.stdin:
        topic, _, digits = line.rstrip("\n").partition(" ")
        try:
            print("accepted", topic, verifier.take(topic, bytes.fromhex(digits)), flush=True)
        except Refused as why:
            refused += 1
            print("refused", why, topic, flush=True)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
