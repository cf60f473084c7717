"""What the steps of one trial share: the host, the guest, and what has been found out so far."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Interface

from ..errors import Problem
from ..ipc import aio
from ..kernel.addresses import Address
from .guest import TrialGuest
from .host import TrialHost
from .lease import Lease
from .steps import ProgressCallbacks, Trial


@dataclass
class TrialContext:
    """One trial under way.

    seconds: how long a step may take.
    gateway4, gateway6: None while none is known.
    address6: the guest's IPv6 address by autoconfiguration.
    mac_nat: whether that is on.
    meets_host: whether host access is on; None while that is not known.
    macs: those of the gateways that have been resolved.
    before: frames that the guest had sent and received when the step began.
    """

    host: TrialHost
    trial: Trial
    seconds: float
    progress: ProgressCallbacks
    maybe_guest: TrialGuest | None = None
    lease: Lease | None = None
    gateway4: IPv4Address | None = None
    gateway6: IPv6Address | None = None
    address6: IPv6Interface | None = None
    link_local: IPv6Interface | None = None
    mac_nat: bool = False
    meets_host: bool | None = None
    macs: dict[Address, str] = field(default_factory=dict)
    before: tuple[int, int] = (0, 0)

    @property
    def guest(self) -> TrialGuest:
        assert self.maybe_guest
        return self.maybe_guest

    def begin(self) -> None:
        """Count frames from here, as a step begins."""
        guest = self.maybe_guest
        self.before = (guest.sent, guest.received) if guest else (0, 0)

    async def frames(self) -> str:
        """Tell what passed the guest's device since the step began, and what airtapd saw there."""
        sent, received = self.guest.sent - self.before[0], self.guest.received - self.before[1]
        came = "none came" if received == 0 else f"{_frames(received)} came"
        left = "no frame left" if sent == 0 else f"{_frames(sent)} left"
        return f"{left} {self.trial.device}, {came}{await self._refused()}"

    async def dhcp(self) -> aio.Json:
        """What airtapd tells of guests' requests on the uplink; {} where it does not."""
        try:
            uplink, _ = await aio.status(self.host.name, self.trial.device)
        except Problem:  # frames() names it
            return {}
        return uplink.get("dhcp") or {}

    async def _refused(self) -> str:
        try:
            _, guest = await aio.status(self.host.name, self.trial.device)
        except Problem as problem:
            return f"; {problem.message}"
        if not guest:
            return f"; {self.trial.device} is gone"
        counted = {k: n for k, n in (guest["refused"] or {}).items() if n and k != "evicted"}
        words = ", ".join(f"{count} {guard}" for guard, count in counted.items())
        guards = "MAC NAT" if self.mac_nat else "airtapd's guards"
        return f"; {guards} refused some: {words}" if words else ""


def resolution(address: Address) -> str:
    """Name what finds the MAC of an address, for people."""
    return "ARP" if address.version == 4 else "neighbour discovery"


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"
