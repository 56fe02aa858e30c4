"""Tables go forward only, also over a restart of gate.

What this decides: whether a table may be used at all. Its generation must not be below the highest
that gate has used of its area, which stands in state/policy/used, a sealed file of root's. So a
table that somebody copied back, or that a restored folder brought along, is refused by name at a
reload and at a start alike, until a person says that it is meant (`policy compile --accept-older`),
which lowers the mark. `policy compile` alone makes the next generation of what the policy file says
now.

What it leaves to others: what is in use instead (each area), the one-shot's own count
(daemon/policy.py). A mark that is gone or damaged is none: whoever can take it away is root.

    forward = Forward(policy.recall, policy.remember)
    forward.take("exec", 8); forward.take("exec", 7)       # OperatorFault "older"
"""

from __future__ import annotations

from edgewarden.errors import OperatorFault
from edgewarden.wire.used import USED_NAME, dump_used, load_used

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Forward:
    """See the module.

    Args:
        recall: name -> the bytes of a file of state/policy that is root's, else None.
        remember: writes one; returns why not, or "".

    Attributes:
        used: by area, the highest generation that was used.
    """

    __slots__ = ("_remember", "used")

    def __init__(
        self, recall: Callable[[str], bytes | None], remember: Callable[[str, bytes], str]
    ) -> None:
        self._remember = remember
        self.used = load_used(recall(USED_NAME))

    def check(self, area: str, generation: int, *, older: bool = False) -> None:
        """Refuse to go back.

        Args:
            area: of AREAS.
            older: a person said that it is meant.

        Raises:
            OperatorFault: EW-EXEC-017, field name ``older``.
        """
        last = self.used.get(area, 0)
        if generation < last and not older:
            raise OperatorFault(
                f"{area}: the table is of generation {generation}, and {last} was in use",
                code="EW-EXEC-017",
                next_step="`edgewarden policy compile`; if the older one is meant, --accept-older",
                name="older",
            )

    def take(self, area: str, generation: int, *, older: bool = False) -> None:
        """``check``, and remember that it is in use.

        Raises:
            OperatorFault: as ``check``.
        """
        self.check(area, generation, older=older)
        if self.used.get(area, 0) != generation:
            self.used[area] = generation
            self._remember(USED_NAME, dump_used(self.used))
