"""Tests of the one-MAC wire again, with ipvtap: that needs a kernel which has it."""

import pytest

from tests.doctor.test_healthy import test_one_mac_wire  # noqa: F401
from tests.macnat.conftest import airtapd, counting_lan, lan, undisturbed_host  # noqa: F401
from tests.macnat.test_access_point import (  # noqa: F401
    test_arp_request_sent_to_the_stations_mac,
    test_group_packet_sent_to_the_stations_mac,
    test_lease_whose_address_is_answered_for,
)
from tests.macnat.test_children import (  # noqa: F401
    test_address_moves_to_a_guest_when_its_holder_is_silent,
    test_guest_that_is_released,
    test_last_child_takes_all_with_it,
)
from tests.macnat.test_guards import (  # noqa: F401
    scene,
    test_anothers_address,
    test_one_address_in_two_vlans,
    test_random_source_macs,
)
from tests.macnat.test_guests import test_learned_mac_and_slaac  # noqa: F401
from tests.macnat.test_host_access import (  # noqa: F401
    test_broadcasts_and_groups,
    test_bytes_both_ways,
    test_guest_with_the_routers_mac,
    test_nobody_speaks_for_the_router,
    test_the_lan_takes_no_notice,
)
from tests.macnat.test_restart import (  # noqa: F401
    test_guest_that_changes_while_the_daemon_is_away,
    test_guest_that_ends_while_the_daemon_is_away,
)
from tests.macnat.test_trace import (  # noqa: F401
    test_a_mac_that_is_learned_meanwhile,
    test_between_siblings,
    test_every_refusal,
    test_what_is_told,
)
from tests.macnat.test_uplink_changes import (  # noqa: F401
    test_mac_changes_while_the_daemon_is_away,
)

# What is the kernel's in it is seen on both kernels by the other tests here.
KERNELS = ("6.12",)


@pytest.fixture
def device_kind() -> str:
    return "ipvtap"
