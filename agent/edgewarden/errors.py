"""The tree of errors, grouped by whose fault each one is.

An error that reaches a person carries three things besides its text: the EW code that ``edgewarden
explain`` knows, the next step to take, and the fields it speaks of. Foreign errors (OSError,
ssl.SSLError, sqlite3.Error, ...) are renamed into this tree at the border of the adapter that met
them, with ``from``.

    EdgewardenError
    ├── OurFault        a broken promise inside this program
    ├── PeerFault       somebody else's bytes or behaviour
    │   ├── WireRefusal     bytes refused by name, before any use
    │   └── PeerUnavailable no answer, a passing fault: may be retried
    ├── TrustFault      an identity that does not hold: never retried like a passing fault
    ├── OperatorFault   settings, policies, commands
    └── HardwareFault   kernel, board, disk, serial port

Example: ``raise WireRefusal("trailing_bytes", "3 bytes follow the message")``.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing is 2 MB, and gate and guard have none (wire/lean.py)
if TYPE_CHECKING:
    from typing import Self


class EdgewardenError(Exception):
    """Base of everything this program raises on purpose.

    Args:
        text: one line, no capital, no full stop.
        code: EW code from ``edgewarden.codes``.
        next_step: what the reader should do now; one line.
        fields: named values the text speaks of.
    """

    default_code = "EW-AGT-001"

    def __init__(
        self, text: str, *, code: str | None = None, next_step: str = "", **fields: object
    ) -> None:
        super().__init__(text)
        self.text = text
        self.code = code or self.default_code
        self.next_step = next_step
        self.fields = fields

    def to_keep(self) -> Self:
        """This fault, for who keeps it: without the frames of whoever raised it and what led to it.

        A frame holds all its variables, sockets and TLS contexts among them, and often the fault
        itself, so that nothing of it goes away before the collector of cycles comes by. And each
        further ``raise`` of a fault that is kept makes its traceback longer.
        """
        led: list[BaseException] = [self]
        seen = set[int]()
        while led:
            fault = led.pop()
            if id(fault) in seen:  # raised again from what it led to: a ring
                continue
            seen.add(id(fault))
            fault.__traceback__ = None
            led += filter(None, (fault.__cause__, fault.__context__))
        return self


class OurFault(EdgewardenError):
    """A promise between our own parts is broken; restarting is the only cure."""


class PeerFault(EdgewardenError):
    """Somebody else sent what they should not, or did not answer."""

    default_code = "EW-NET-001"


class WireRefusal(PeerFault):
    """Bytes refused by name before any use.

    Args:
        name: the refusal's stable name (``trailing_bytes``, ``bad_signature``, ...): what consoles
            count and tests assert.
        text: what was seen.
    """

    default_code = "EW-WIRE-001"

    def __init__(self, name: str, text: str = "", **fields: object) -> None:
        super().__init__(
            f"{name}: {text}" if text else name,
            next_step="look at the sender; the bytes were not used",
        )
        self.fields.update(fields)
        self.name = name


class PeerUnavailable(PeerFault):
    """No answer, or a refusal that passes with time: may be retried with backoff."""

    default_code = "EW-NET-002"


class TrustFault(EdgewardenError):
    """An identity that does not hold. Raises an alarm; is never retried like a passing fault."""

    default_code = "EW-ID-001"


class OperatorFault(EdgewardenError):
    """Settings, policies or a command that cannot be carried out as written."""

    default_code = "EW-SET-001"


class HardwareFault(EdgewardenError):
    """Kernel, board, disk or port refuses; carries the reason it gave."""

    default_code = "EW-HOST-001"
