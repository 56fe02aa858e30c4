"""What a TPM's refusals mean, and how they are named (tpm.py repeats what was lost, once).

Knows no library: a fault is whatever has the code of TPM 2.0 Part 2 §6.6 as ``rc``.
"""

from __future__ import annotations

from edgewarden.errors import EdgewardenError, HardwareFault, TrustFault

# TPM 2.0 Part 2 §6.6.3: a code with bit 7 speaks of a parameter; HANDLE is of those.
_FORMAT_ONE, _RC_HANDLE, _RC_INTEGRITY, _RC_BINDING = 0x80, 0x0B, 0x1F, 0x25
_LAYER = 0x00FF0000  # TSS 2.0 Overview §3.5: which layer an error is of; 0 is the TPM itself


def is_lost(fault: Exception) -> bool:
    """Is it the connection, or a handle that did not survive, and not an answer?"""
    code = getattr(fault, "rc", None)
    if not isinstance(code, int):
        return False
    # Warnings (REFERENCE_H0, RETRY, ...) come without format one; of parameters only HANDLE.
    return bool(code & _LAYER or not code & _FORMAT_ONE or code & 0x3F == _RC_HANDLE)


def renamed(what: str, fault: Exception) -> EdgewardenError:
    """The fault by our names: TrustFault EW-ID-031 for what is another TPM's, else ``refusal``."""
    if isinstance(fault, EdgewardenError):
        return fault
    code = getattr(fault, "rc", 0)
    foreign = isinstance(code, int) and not code & _LAYER and code & _FORMAT_ONE
    if foreign and code & 0x3F in (_RC_INTEGRITY, _RC_BINDING):
        return TrustFault(
            f"the TPM refuses to {what}: it belongs to another TPM ({fault})",
            code="EW-ID-031",
            next_step="put the card back into its own board, or enrol this board as a new gateway",
        )
    return refusal(what, str(fault) or repr(fault))


def refusal(what: str, why: str) -> HardwareFault:
    """EW-ID-030: what was wanted of the TPM, and why not."""
    return HardwareFault(
        f"the TPM does not {what}: {why}",
        code="EW-ID-030",
        next_step="run `edgewarden identity selftest`; see `ls -l /dev/tpmrm0` and group tss",
    )
