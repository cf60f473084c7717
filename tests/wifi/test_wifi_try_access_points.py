"""airtap try behind an access point that keeps stations apart, and answers ARP and ND for them."""

import pytest

from tests.wifi.test_wifi_try import KINDS, test_guests_work  # noqa: F401


@pytest.fixture(scope="module")
def variant() -> str:
    return "proxy-arp"
