"""Where the identity's key is kept, from a plain file to a TPM; and which of it this board gets.

    G2    in a TPM                                 tpmkey.py    a clone of the card has no key
    G1    a file sealed to the board's own secret  sealed.py    the same; root on the board has it
    G0+   a file sealed to a systemd credential    sealed.py    not in backups; a whole card has it
    G0    a file                                   keys.py      only other users have it not

G3 is G2 and measured boot that an operator's references confirm: the fleet's word, never this
file's.

Rules of ``choose``, in order:

1. ``wanted`` is a grade: that one, or EW-ID-034 with the reason. ``auto``: from the top down, the
   first whose new key passes its proof (selftest.py); each that did not is named with its reason
2. a grade lower than the one recorded at the last enrolment is refused (EW-ID-033), unless the
   operator named that very grade with ``--accept-lower``; the fleet is told in both cases

Rules of ``Keys.open``: the form of the key file says where the key is; a form that does not fit the
grade recorded beside it is refused (EW-ID-033): a file put in a TPM key's place lowers no grade in
silence.

What speaks with a TPM is loaded where a key is in one, and only there.

    keys = Keys(tcti="device:/dev/tpmrm0")
    key = keys.open(pem, "G2")
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgewarden.errors import EdgewardenError, TrustFault
from edgewarden.plain import dataclass, field
from edgewarden.ports import Quoter, Signer
from edgewarden.trust import sealed, tsskey
from edgewarden.trust.board import board_secret
from edgewarden.trust.keys import FileSigner

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from edgewarden.kernel import tpm as tpms

GRADES = ("G0", "G0+", "G1", "G2")
"""From the lowest to the highest that a gateway declares of itself."""
AUTO = "auto"
TCTI = "device:/dev/tpmrm0"
"""The kernel's resource manager: what every board with a TPM has."""
CREDENTIAL = "edgewarden.seal"
"""Name of the systemd credential that G0+ seals to: LoadCredentialEncrypted=edgewarden.seal:..."""


class OwnKey(Signer, Protocol):
    """The identity's key, wherever it is kept.

    Methods may block as long as its holder takes; executors only. They raise HardwareFault when the
    holder refuses. close() lets the holder go; the key opens it again when it is used.
    """

    grade: str

    def to_pem(self) -> bytes:
        """The key file that brings this key back, here."""

    def private_key(self) -> ec.EllipticCurvePrivateKey:
        """For X.509 builders; of a TPM key its bytes are nowhere to be had."""

    def present(self, context: ssl.SSLContext, cert_path: Path, key_path: Path) -> None:
        """Make it the context's own key; raises OSError when certificate and key do not fit."""

    def quoter(self) -> Quoter | None:
        """Who vouches for this boot; None below G2."""

    def about(self) -> str:
        """One line for a person: where it is kept, and by which recipe TLS gets to it."""

    def close(self) -> None:
        """Let the holder go."""


@dataclass(slots=True)
class Keys:
    """The places where a key may be, as this process reaches them.

    Attributes:
        tcti: the TPM, in tpm2-tss's words.
        credentials: systemd's folder of credentials for this service, None without one.
        board: asks for the board's secret.
    """

    tcti: str = TCTI
    credentials: Path | None = None
    board: Callable[[], bytes | None] = board_secret
    _tpm: tpms.Tpm | None = field(default=None, repr=False)

    def open(self, pem: bytes, grade: str | None) -> OwnKey:
        """The key of a key file.

        Args:
            grade: what was recorded when it was enrolled; None when it is not enrolled yet.

        Raises:
            TrustFault: EW-ID-003 damaged, EW-ID-033 of another grade than recorded, EW-ID-035 its
                secret is not here.
            HardwareFault: EW-ID-030 no TPM, EW-ID-031 another one.
        """
        key: OwnKey
        if tsskey.is_tss(pem):
            from edgewarden.trust.tpmkey import TpmKey

            key = TpmKey(self.tpm(), pem)
        elif sealed.is_sealed(pem):
            key = sealed.open_sealed(pem, self._secrets())
        else:
            key = FileSigner.from_pem(pem)
        if grade is not None and key.grade != grade:
            raise TrustFault(
                f"the key is kept as {key.grade} and was enrolled as {grade}",
                code="EW-ID-033",
                next_step="treat the identity folder as changed by somebody: report it",
            )
        return key

    def make(self, grade: str) -> OwnKey:
        """A new key of a grade.

        Raises:
            EdgewardenError: with the reason why this board has none of it.
        """
        if grade == "G2":
            from edgewarden.trust.tpmkey import TpmKey

            key = TpmKey.generate(self.tpm())
            key.recipe()
            return key
        for source, name in sealed.GRADES.items():
            if name == grade:
                secret = self._secrets().get(source)
                if secret is None:
                    raise _none_of(grade, _ABSENT[source])
                return sealed.seal(FileSigner.generate(), source, secret)
        return FileSigner.generate()

    def tpm(self) -> tpms.Tpm:
        """The TPM, connected; one connection for the process. Raises HardwareFault."""
        if self._tpm is None:
            from edgewarden.kernel import tpm as tpms

            why = tpms.missing()
            if why is not None:
                raise _none_of("G2", why)
            self._tpm = tpms.Tpm(self.tcti)
        return self._tpm

    def close(self) -> None:
        """Let the TPM go."""
        if self._tpm is not None:
            self._tpm.close()
            self._tpm = None

    def _secrets(self) -> Mapping[int, bytes]:
        found: dict[int, bytes] = {}
        if self.credentials is not None:
            try:
                found[sealed.CREDENTIAL] = (self.credentials / CREDENTIAL).read_bytes()
            except OSError:
                found.pop(sealed.CREDENTIAL, None)
        board = self.board()
        if board is not None:
            found[sealed.BOARD] = board
        return found


_ABSENT = {
    sealed.CREDENTIAL: f"systemd gives this process no credential {CREDENTIAL}",
    sealed.BOARD: "this board has no secret of its own, or this user may not read it",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """What a board gets.

    Attributes:
        key: new, and proven.
        passed_over: higher grade -> why not.
    """

    key: OwnKey
    passed_over: Mapping[str, str]


def choose(
    keys: Keys, wanted: str, prove: Callable[[OwnKey], None], kept: OwnKey | None = None
) -> Choice:
    """Make a key of the highest grade that works here, or of the one that is wanted.

    Args:
        prove: raises EdgewardenError when a key does not carry a handshake.
        kept: of a try without an answer: taken in place of a new one of its grade.

    Raises:
        TrustFault: EW-ID-034, the grade that is wanted cannot be had.
    """
    passed_over: dict[str, str] = {}
    for grade in reversed(GRADES) if wanted == AUTO else (wanted,):
        try:
            key = kept if kept is not None and kept.grade == grade else keys.make(grade)
            prove(key)
        except EdgewardenError as fault:
            passed_over[grade] = fault.text
            continue
        return Choice(key, passed_over)
    reasons = "; ".join(f"{grade}: {why}" for grade, why in passed_over.items())
    raise TrustFault(
        f"no key of the grade that is wanted: {reasons}",
        code="EW-ID-034",
        next_step="set identity.grade to auto, or provide what is missing",
    )


def is_lower(grade: str, recorded: str) -> bool:
    """Whether a grade is lower than the one recorded ("" for none)."""
    return recorded in GRADES and GRADES.index(grade) < GRADES.index(recorded)


def check_lower(grade: str, recorded: str, accepted: str) -> None:
    """Rule 2.

    Args:
        accepted: the grade that the operator named, "" for none.

    Raises:
        TrustFault: EW-ID-033.
    """
    if is_lower(grade, recorded) and accepted != grade:
        raise TrustFault(
            f"this gateway was {recorded}, its new key would be {grade}",
            code="EW-ID-033",
            next_step=f"find out why; to go on with less: `enroll ... --accept-lower {grade}`",
        )


def _none_of(grade: str, why: str) -> TrustFault:
    return TrustFault(
        f"no key of grade {grade} here: {why}",
        code="EW-ID-034",
        next_step="provide what is missing, or set identity.grade to a lower one",
    )
