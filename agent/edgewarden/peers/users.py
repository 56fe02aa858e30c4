"""Which numbers an ``[[egress]]`` rule's users are, and whose must not be among them.

What this decides, in order:

1. A name is this gateway's user of that name; one that is not there is a fault.
2. Root is never managed, under any name.
3. A user who may have others (subuid(5): rootless containers run as those) is managed with them:
   else a program of his would only have to make a user namespace.
4. Nobody's number may be among them without whom the gateway is cut off: link's, the name, address
   and time services' (settings/peers.py). A range covers more than its author thinks of.

What it leaves to others: the numbers (parameters, from this machine).

    Users(number_of, subordinate=[(1000, 100000, 65536)]).spans("a", ("1000",))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgewarden.errors import OperatorFault
from edgewarden.peers.numbers import Span, span
from edgewarden.plain import dataclass
from edgewarden.settings.peers import NEVER_MANAGED_USERS

Subordinate = tuple[int, int, int]
"""Owner, first of his other numbers, how many."""


@dataclass(frozen=True, slots=True)
class Users:
    """This gateway's users, as far as rules ask for them.

    Attributes:
        number_of: of a user's name; None for one that is not there.
        subordinate: as /etc/subuid says.
        link_user: whose name link runs under.
    """

    number_of: Callable[[str], int | None]
    subordinate: Sequence[Subordinate] = ()
    link_user: str = "edgewarden"

    def spans(self, rule: str, values: Sequence[str]) -> list[Span]:
        """The numbers of a rule's users.

        Raises:
            OperatorFault: EW-NET-030.
        """
        found = [self._one(value) for value in values]
        found += [
            (first, first + count - 1)
            for owner, first, count in self.subordinate
            if count > 0 and first > 0 and any(a <= owner <= b for a, b in found)
        ]
        for name in (*NEVER_MANAGED_USERS, self.link_user):
            number = self.number_of(name)
            if number is None:
                continue
            for low, high in found:
                if low <= number <= high:
                    raise _fault(
                        f"rule {rule}: uid {span(low, high)} covers {name} ({number}), without "
                        "which this gateway is cut off; name others, or the unit"
                    )
        return found

    def _one(self, value: str) -> Span:
        low, _, high = value.partition("-") if value[0].isdigit() else (value, "", "")
        first = int(low) if low.isdecimal() else self.number_of(value)
        if first is None:
            raise _fault(f"uid: no user {value} on this gateway")
        if first == 0:
            raise _fault(f"{value} is root, which is never managed")
        return first, int(high) if high else first


def _fault(text: str) -> OperatorFault:
    return OperatorFault(
        text, code="EW-NET-030", next_step="correct the policy file and compile it again"
    )
