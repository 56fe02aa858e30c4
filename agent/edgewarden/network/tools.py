"""What the network area works with: the library, and sockets that hear of packets and listeners.

What this decides: that all of it is there at once, while no exec waits for gate. Loading the
library opens files, and the first use of a socket or of a kind of statement has the kernel start
modprobe; where that start waits for gate's verdict, gate would wait for itself. So whoever calls
``open`` sees to it that no permission mark exists meanwhile (gate/arming.py), and EVERY_KIND is
tried with it: no later table can need a module that is not there. What it leaves to others: what is
done with them (area.py).

    unhindered(tools.open); tools.open_groups(units=True)
"""

from __future__ import annotations

from edgewarden.errors import HardwareFault
from edgewarden.kernel.nftables import Nft
from edgewarden.kernel.sockdiag import open_diag
from edgewarden.network.counters import Counters
from edgewarden.network.groups import Groups
from edgewarden.network.logins import Logins
from edgewarden.network.nflog import NfLog, open_nflog
from edgewarden.peers.modes import REMOVE, TABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from edgewarden.gate.doors import Doors
    from edgewarden.network.force import Force

LOG_GROUP = 17751
"""As in peers/rules.py, which gate does not load."""
EVERY_KIND = (
    REMOVE + f"table {TABLE} {{\n"
    "set trial { typeof meta nfproto; flags timeout; elements = { 2 timeout 9s }; }\n"
    "set ssh { type inet_service; elements = { 22 }; }\n"
    "set h4 { type ipv4_addr; flags timeout; size 16; }\n"
    "set h6 { type ipv6_addr; flags timeout; size 16; }\n"
    "set e4 { type ipv4_addr . inet_proto . inet_service; elements = { 10.0.0.1 . 6 . 1 }; }\n"
    "set e6 { type ipv6_addr . inet_proto . inet_service; elements = { ::2 . 6 . 1 }; }\n"
    "set known4 { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 }; }\n"
    "set conn4 { type ipv4_addr; size 16; flags dynamic; }\n"
    "set syn4 { type ipv4_addr; size 16; flags dynamic, timeout; timeout 10s; }\n"
    "set slots { typeof ct id; size 16; flags dynamic, timeout; timeout 600s; }\n"
    "map units { type cgroupsv2 : verdict; }\n"
    "counter c0 { }\n"
    "chain c0 { counter name c0\n"
    'limit rate 5/second burst 10 packets log prefix "c0" group 17751 snaplen 64\n}\n'
    "chain refuse { meta nfproto != @trial accept\n"
    "meta nfproto 2 limit rate 20/second burst 10 packets reject with icmp type admin-prohibited\n"
    "meta l4proto 6 reject with tcp reset\ndrop\n}\n"
    "chain listed { ip saddr . meta l4proto . th dport @e4 accept\n"
    "ip6 daddr . meta l4proto . th dport @e6 accept\nip saddr @known4 return\n"
    "ip6 saddr & ffff:ffff:ffff:ffff:: @h6 accept\nip daddr { 10.0.0.0/8, 11.0.0.1 } accept\n"
    "meta l4proto 58 icmpv6 type { 130-137, 143 } accept\nudp dport { 68, 546 } accept\n"
    "meta l4proto { 6, 17 } th dport 1-5 accept\ntcp dport @ssh accept\n"
    "tcp flags & (fin | syn | rst | ack) == syn drop\n"
    "tcp flags & syn == 0 socket wildcard 0 accept\n"
    "ct id != @slots return\nupdate @slots { ct id timeout 5s }\n"
    "tcp flags & (fin | rst) == 0 update @slots { ct id } return\ndelete @slots { ct id }\n"
    "add @syn4 { ip saddr limit rate over 20/second burst 40 packets } goto refuse\n"
    "add @conn4 { ip saddr ct count over 20 } goto refuse\nadd @syn4 { ip saddr } drop\n}\n"
    "chain input { type filter hook input priority -10; policy accept;\n"
    'iifname "lo" accept\nct state established ct direction original meta l4proto 6 jump listed\n'
    "ct state established,related accept\n}\n"
    "chain slots_out { type filter hook output priority -10; policy accept;\n"
    "ct state established ct direction reply meta l4proto 6 ct id @slots jump listed\n}\n"
    "chain output { type filter hook output priority -10; policy accept;\n"
    'oifname "lo" accept\nsocket cgroupv2 level 2 vmap @units\nmeta skuid 7-8 goto refuse\n}\n}\n'
)
"""A table of every kind of statement that a policy can lead to, to be tried and never kept: trying
it loads the kernel's modules. tests/network/test_rules.py holds it to what policies come to."""


class Tools:
    """See the module.

    Args:
        force: gets the library, the control groups and the ways in.
        mention: (code, text), of what is missing and not worth failing for.
        watch: tell the loop of a descriptor.
        on_log, on_made: what it does then.

    Attributes:
        counters: None until the library is there.
        log: None where packets cannot be named.
    """

    def __init__(
        self,
        doors: Doors,
        force: Force,
        mono_s: Callable[[], float],
        mention: Callable[[str, str], None],
        watch: Callable[[int, Callable[[int], None]], None],
        on_log: Callable[[int], None],
        on_made: Callable[[int], None],
    ) -> None:
        self.counters: Counters | None = None
        self.log: NfLog | None = None
        self._doors = doors
        self._force = force
        self._mono_s = mono_s
        self._mention = mention
        self._watch = watch
        self._on_log = on_log
        self._on_made = on_made

    def open(self) -> None:
        """Everything, once; where execs wait for us it is too late for that.

        Raises:
            HardwareFault: the library is not there.
            OperatorFault: field name ``restart``.
        """
        nft = self._doors.load(Nft)
        self.counters = Counters(TABLE.partition(" ")[2])
        if self._force.logins is None:
            try:
                self._force.logins = Logins(open_diag(), self._doors, self._mono_s)
            except HardwareFault as fault:
                self._mention("EW-NET-041", f"where ssh listens is not known: {fault.text}")
        if self.log is None:
            try:
                self.log = open_nflog(LOG_GROUP)
                self._watch(self.log.fileno(), self._on_log)
            except HardwareFault as fault:
                text = f"refused connections are counted, not named: {fault.text}"
                self._mention("EW-NET-038", text)
        self._force.nft = nft
        try:
            nft.check(EVERY_KIND)
        except HardwareFault:  # this kernel lacks one; a table that needs it is refused
            return

    def open_groups(self, *, units: bool) -> None:
        """For units; nothing is opened but a descriptor of the kernel's.

        Raises:
            HardwareFault: no inotify.
        """
        if self._force.groups is None and units:
            self._force.groups = Groups()
            self._watch(self._force.groups.fd, self._on_made)
