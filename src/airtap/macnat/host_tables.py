"""What the programs of one uplink are to know of the host: its addresses and routes, and what the
configuration has of guests that route."""

import logging

from ..bpf.macnat import Macnat
from ..bpf.records import ROUTES
from ..config import Parent
from ..kernel.addresses import HostAddresses, HostNetwork
from . import routers
from .elsewhere import elsewhere
from .host_view import HostView

log = logging.getLogger(__name__)


class HostTables:
    """Tells the programs of one uplink, whose name is for the log.

    addresses are what they have been told of the host's, at first none.
    """

    def __init__(self, nat: Macnat, host: HostView, uplink: str) -> None:
        self._nat = nat
        self._host = host
        self._uplink = uplink
        self._known: tuple[HostNetwork, object] | None = None
        self._has_many_routes = False
        self.addresses = HostAddresses(*[frozenset()] * 6)

    async def update(self, index: int, settings: Parent) -> None:
        """Tell them what is new. index is the uplink's; settings are the configuration's of it.

        Raises BpfError, LinkError.
        """
        nat, network = self._nat, await self._host.network()
        gateway = nat.host_access.set_gateway(settings.gateway)
        behind = settings.routes if nat.config.translates() else {}
        if self._known and network is self._known[0] and (gateway, behind) == self._known[1]:
            return
        around = await self._host.work(network.around, index)
        routes = await self._host.work(elsewhere, network, index)
        nat.hosts.set_addresses(
            around.own, around.broadcasts, around.tentative, around.gateways, gateway
        )
        nat.hosts.set_on_link(around.on_link, around.subnets)
        # What the configuration says of an address counts more than a shorter route.
        here = dict.fromkeys(map(routers.prefix_of, behind), 0)
        taken = nat.hosts.set_routes(routes | here) + routers.tell(nat, behind, around.on_link)
        for entry in taken:
            log.info("%s: %s is routed elsewhere now", self._uplink, entry.address)
        if len(routes) > ROUTES and not self._has_many_routes:
            what = "%s: of %d routes that lead elsewhere the %d shortest are kept from guests"
            log.warning(what, self._uplink, len(routes), ROUTES)
        self._has_many_routes = len(routes) > ROUTES
        self.addresses, self._known = around, (network, (gateway, behind))
