"""The first guest works; the second gets the same lease, and reaches nobody: QEMU gives all guests
one MAC unless told otherwise, and nothing said so.

quickemu-project/quickemu#1667, arighi/virtme-ng#195, cloudius-systems/capstan#117.
"""

import pytest

from lab.airtap import Airtapd
from lab.doctor import Doctor
from lab.lan import ROUTER4, Lan, wait_for
from lab.traffic import pump

QEMUS = "52:54:00:12:34:56"


@pytest.mark.parametrize("macnat", ["on", "off"])
def test_the_second_one_is_told(macnat: str) -> None:
    with (
        Lan(one_mac=macnat == "on"),
        Airtapd(config=f'[parents.up0]\nmacnat = "{macnat}"\n') as airtapd,
        pump(airtapd, QEMUS, told=False) as one,
    ):
        one.dhcp()
        [first] = airtapd.guests()
        with pump(airtapd, QEMUS, "192.0.2.77", told=False, name="two") as two:
            assert not two.ping(ROUTER4)
            second = airtapd.guests()[1]["device"]
            says = f"{QEMUS} is the MAC address of {first['device']}"
            wait_for(lambda: in_use(airtapd) == {first["device"]: None, second: says}, 5, says)
            finding = Doctor.of(airtapd).bad("up0")["mac-in-use"]
            assert finding["subject"] == second
            assert says in finding["evidence"]
        one.close()  # the MAC is free, and another one's
        with pump(airtapd, QEMUS, told=False, name="three") as three:
            three.dhcp(10)
            wait_for(lambda: set(in_use(airtapd).values()) == {None}, 5, "it to have its MAC")


def in_use(airtapd: Airtapd) -> dict[str, str | None]:
    return {guest["device"]: guest["mac_in_use"] for guest in airtapd.guests()}
