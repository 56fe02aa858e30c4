"""One quote, judged: what an honest TPM says holds, and each way to lie has its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from edgewarden.appraise import quotes
from edgewarden.appraise.quotes import Bound, Contradiction, Enrolled, Mark
from edgewarden.trust.keys import FileSigner
from edgewarden.wire import quoted as wire
from edgewarden.wire import tpm as tpm_wire
from edgewarden.wire.quoted import Quoted, TpmKeys, qualifying
from edgewarden.wire.tpm import Alg, Attribute, Public, Signature
from edgewarden_fleet.verify.tpm import verify
from tests.fakes.tpm import AK, FIXED, PCRS, SoftTpm, public_of, signed
from tests.fleet.makers import new_key

NONCE, CLAIMS, BOOT = b"n" * 32, b"claims", b"b" * 16


class Scene:
    """An honest TPM, what the verifier knows, and what is sent."""

    def __init__(self) -> None:
        self.key = new_key()
        self.tpm = SoftTpm(self.key)
        self.bound = Bound(NONCE, CLAIMS, BOOT, FileSigner(self.key).public_key())
        self.enrolled = Enrolled(self.tpm.ak_public)
        self.qualifying = qualifying(NONCE, CLAIMS)
        self.sent = wire.whole(self.tpm.quote(self.qualifying))

    @property
    def keys(self) -> TpmKeys:
        assert self.sent.keys is not None
        return self.sent.keys

    def judge(self) -> quotes.Vouched | None:
        return quotes.judge(self.sent, self.bound, self.enrolled, verify)

    def quote(self, data: bytes) -> None:
        """Another quote, signed by the attestation key."""
        self.sent = replace(self.sent, quote=data, quote_signature=signed(self.tpm.ak, data))

    def certify(self, data: bytes, tls_public: bytes | None = None) -> None:
        """Another certification, signed by the attestation key."""
        keys = replace(
            self.keys,
            certify=data,
            certify_signature=signed(self.tpm.ak, data),
            tls_public=tls_public or self.keys.tls_public,
        )
        self.sent = replace(self.sent, keys=keys)

    def other_ak(self, attributes: int) -> None:
        """The enrolled attestation key has these attributes, and signed everything."""
        self.tpm.ak_public = public_of(self.tpm.ak, attributes)
        self.enrolled = Enrolled(self.tpm.ak_public)
        self.sent = wire.whole(self.tpm.quote(self.qualifying))


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_an_honest_quote_holds(scene: Scene) -> None:
    vouched = scene.judge()
    assert vouched is not None
    assert vouched.pcrs == PCRS
    assert vouched.mark == Mark(7, scene.tpm.clock_ms, BOOT)
    assert vouched.keys == scene.keys


def test_a_certification_is_verified_once_and_a_refused_one_each_time(scene: Scene) -> None:
    asked: list[bytes] = []

    def counted(public: Public, message: bytes, signature: Signature) -> bool:
        asked.append(message)
        return verify(public, message, signature)

    good = scene.keys
    for _ in range(3):
        assert quotes.judge(scene.sent, scene.bound, scene.enrolled, counted) is not None
    assert asked.count(good.certify) == 1
    assert asked.count(scene.sent.quote) == 3
    forged = replace(good, certify_signature=signed(new_key(), good.certify))
    scene.sent = replace(scene.sent, keys=forged)
    for _ in range(3):
        with pytest.raises(quotes.Contradiction, match="certify_signature"):
            quotes.judge(scene.sent, scene.bound, scene.enrolled, counted)
    assert asked.count(good.certify) == 4


def foreign_tpm(s: Scene) -> None:
    """Another TPM vouches, honestly, for the same claims."""
    s.sent = wire.whole(SoftTpm(s.key).quote(s.qualifying))


def unrestricted_key(s: Scene) -> None:
    """A key that signs what anybody hands to it can sign a quote that no TPM made."""
    s.other_ak(AK & ~Attribute.RESTRICTED)


def key_that_decrypts(s: Scene) -> None:
    s.other_ak(AK | Attribute.DECRYPT)


def key_from_outside(s: Scene) -> None:
    s.other_ak(AK & ~Attribute.SENSITIVE_DATA_ORIGIN)


def key_that_may_leave(s: Scene) -> None:
    s.other_ak(AK & ~Attribute.FIXED_TPM)


def key_that_may_move(s: Scene) -> None:
    s.other_ak(AK & ~Attribute.FIXED_PARENT)


def key_that_does_not_sign(s: Scene) -> None:
    s.other_ak(AK & ~Attribute.SIGN)


def forged_quote(s: Scene) -> None:
    s.sent = replace(s.sent, quote_signature=signed(new_key(), s.sent.quote))


def changed_quote(s: Scene) -> None:
    data = bytearray(s.sent.quote)
    data[-1] ^= 1
    s.sent = replace(s.sent, quote=bytes(data))


def made_up_by_the_key(s: Scene) -> None:
    """What a key signs that is not a TPM's own does not begin with TPM_GENERATED."""
    s.quote(s.tpm.quoted(s.qualifying, magic=0))


def certification_as_quote(s: Scene) -> None:
    s.quote(s.tpm.certified())


def trailing_bytes(s: Scene) -> None:
    s.quote(s.tpm.quoted(s.qualifying) + b"\0")


def certification_with_trailing_bytes(s: Scene) -> None:
    s.certify(s.tpm.certified() + b"\0")


def replayed(s: Scene) -> None:
    """A quote about the same claims for an earlier nonce."""
    s.quote(s.tpm.quoted(qualifying(b"o" * 32, CLAIMS)))


def rewritten_claims(s: Scene) -> None:
    """Whoever holds the identity key signs other claims around the same quote."""
    s.bound = replace(s.bound, claims=b"other claims")


def no_qualifying_data(s: Scene) -> None:
    s.quote(s.tpm.quoted(b""))


def narrowed(s: Scene) -> None:
    s.quote(s.tpm.quoted(s.qualifying, selection=0b1))


def widened(s: Scene) -> None:
    s.tpm.pcrs = {**PCRS, 16: bytes(32)}
    s.quote(s.tpm.quoted(s.qualifying, selection=0x107FF))


def empty_selection(s: Scene) -> None:
    s.quote(s.tpm.quoted(s.qualifying, selection=0))


def sha1_bank(s: Scene) -> None:
    s.quote(s.tpm.quoted(s.qualifying, bank=Alg.SHA1))


def other_values(s: Scene) -> None:
    s.sent = replace(s.sent, pcrs={**PCRS, 7: b"x" * 32})


def forged_certification(s: Scene) -> None:
    keys = replace(s.keys, certify_signature=signed(new_key(), s.keys.certify))
    s.sent = replace(s.sent, keys=keys)


def another_key_certified(s: Scene) -> None:
    s.certify(s.tpm.certified(public_of(new_key(), FIXED)))


def certified_by_another(s: Scene) -> None:
    s.certify(s.tpm.certified(signer=b"\x00\x0b" + bytes(32)))  # type: ignore[arg-type]


def certified_in_an_earlier_boot(s: Scene) -> None:
    s.certify(s.tpm.certified(resets=6))


def tls_key_that_may_leave(s: Scene) -> None:
    public = public_of(s.key, FIXED & ~Attribute.FIXED_TPM | Attribute.SIGN)
    s.certify(s.tpm.certified(public), public)


def tls_key_from_outside(s: Scene) -> None:
    public = public_of(s.key, FIXED & ~Attribute.SENSITIVE_DATA_ORIGIN | Attribute.SIGN)
    s.certify(s.tpm.certified(public), public)


def tls_key_that_may_move(s: Scene) -> None:
    public = public_of(s.key, FIXED & ~Attribute.FIXED_PARENT | Attribute.SIGN)
    s.certify(s.tpm.certified(public), public)


def relayed(s: Scene) -> None:
    """An honest TPM answers for the session of somebody else's certificate."""
    s.bound = replace(s.bound, peer_key=FileSigner.generate().public_key())


def reset_while_running(s: Scene) -> None:
    """An SPI TPM's reset line is a wire; the same boot cannot have two resets."""
    s.enrolled = replace(s.enrolled, mark=Mark(6, 10, BOOT))


def resets_went_back(s: Scene) -> None:
    s.enrolled = replace(s.enrolled, mark=Mark(8, 10, b"o" * 16))


def clock_went_back(s: Scene) -> None:
    s.enrolled = replace(s.enrolled, mark=Mark(7, 2**40, BOOT))


def key_structure_of_garbage(s: Scene) -> None:
    s.sent = replace(s.sent, keys=replace(s.keys, tls_public=b"\0"))


ATTACKS: dict[str, list[Callable[[Scene], None]]] = {
    "ak_foreign": [foreign_tpm],
    "ak_attributes": [
        unrestricted_key, key_that_decrypts, key_from_outside, key_that_may_leave,
        key_that_may_move, key_that_does_not_sign,
    ],
    "quote_signature": [forged_quote, changed_quote],
    "bad_tpm": [
        made_up_by_the_key, certification_as_quote, trailing_bytes, key_structure_of_garbage,
        certification_with_trailing_bytes,
    ],
    "quote_nonce": [replayed, rewritten_claims, no_qualifying_data],
    "pcr_selection": [narrowed, widened, empty_selection, sha1_bank],
    "pcr_digest": [other_values],
    "certify_signature": [forged_certification],
    "certify_name": [another_key_certified],
    "certify_signer": [certified_by_another],
    "certify_boot": [certified_in_an_earlier_boot],
    "tls_attributes": [tls_key_that_may_leave, tls_key_from_outside, tls_key_that_may_move],
    "tls_key": [relayed],
    "tpm_reset": [reset_while_running],
    "reset_count": [resets_went_back],
    "tpm_clock": [clock_went_back],
}  # fmt: skip
CASES = [(name, attack) for name, attacks in ATTACKS.items() for attack in attacks]


@pytest.mark.parametrize(("name", "attack"), CASES, ids=lambda v: getattr(v, "__name__", v))
def test_each_lie_has_its_name(scene: Scene, name: str, attack: Callable[[Scene], None]) -> None:
    attack(scene)
    with pytest.raises(Contradiction) as caught:
        scene.judge()
    assert caught.value.name == name


def test_every_name_of_the_docstring_has_an_attack() -> None:
    lines = (quotes.__doc__ or "").splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("    ") and line.strip()]
    assert set(ATTACKS) == {name for name in listed if "_" in name}


def test_a_digest_form_needs_keys_that_were_shown(scene: Scene) -> None:
    scene.sent = Quoted(scene.sent.quote, scene.sent.quote_signature, None, None)
    assert scene.judge() is None


def test_a_digest_form_goes_by_what_was_shown(scene: Scene) -> None:
    first = scene.judge()
    assert first is not None
    scene.enrolled = replace(scene.enrolled, keys=first.keys, pcrs=first.pcrs, mark=first.mark)
    scene.sent = Quoted(scene.sent.quote, scene.sent.quote_signature, None, None)
    vouched = scene.judge()
    assert vouched is not None
    assert vouched.pcrs == PCRS


def test_moved_pcrs_are_not_known_by_their_digest(scene: Scene) -> None:
    first = scene.judge()
    assert first is not None
    scene.enrolled = replace(scene.enrolled, keys=first.keys, pcrs=first.pcrs)
    scene.tpm.pcrs = {**PCRS, 10: b"i" * 32}
    quote = scene.tpm.quoted(scene.qualifying)
    scene.sent = Quoted(quote, signed(scene.tpm.ak, quote), None, None)
    vouched = scene.judge()
    assert vouched is not None
    assert vouched.pcrs is None


def test_a_reboot_is_no_lie(scene: Scene) -> None:
    first = scene.judge()
    assert first is not None
    scene.enrolled = replace(scene.enrolled, mark=first.mark)
    scene.tpm.boot()
    scene.tpm.clock_ms = 10  # after an unorderly end the TPM's clock may be behind
    scene.bound = replace(scene.bound, boot_id=b"c" * 16)
    scene.sent = wire.whole(scene.tpm.quote(scene.qualifying))
    assert scene.judge() is not None


def test_the_fake_writes_what_a_tpm_writes() -> None:
    """Public areas and quotes of the fake have the recorded ones' shape, field for field."""
    from tests.wire.tpm_vectors import RECORDED

    fake = SoftTpm(new_key())
    assert public_of(fake.ak, AK)[:20] == RECORDED["ak_public"][:20]
    assert (
        public_of(fake.tls_key, FIXED | Attribute.USER_WITH_AUTH | Attribute.SIGN)[:20]
        == (RECORDED["tls_public"][:20])
    )
    quote, recorded = fake.quoted(bytes(32)), RECORDED["quote"]
    assert len(quote) == len(recorded)
    assert quote[:8] == recorded[:8]
    assert quote[101:111] == recorded[101:111]
    assert tpm_wire.parse_quote(quote).pcrs == tpm_wire.parse_quote(recorded).pcrs
