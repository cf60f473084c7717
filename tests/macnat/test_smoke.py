import time
from lab.airtap import Airtapd
from lab.lan import Lan
from lab.pump import PumpGuest

def test_smoke() -> None:
    with Lan(one_mac=True) as lan, Airtapd(config='[parents.up0]\nmacnat = "on"\n') as d:
        try:
            t0=time.time()
            with PumpGuest(d.attach("up0").take(), "52:54:00:00:00:01", name="a") as a, PumpGuest(d.attach("up0","52:54:00:00:00:02").take(), "52:54:00:00:00:02",name="b") as b:
                print(time.time()-t0)
                print(a.dhcp(), b.dhcp(), time.time()-t0)
                print(lan.ping(a.addresses()[0]), a.ping(b.addresses()[0]), time.time()-t0)
                time.sleep(2)
                print(a.addresses(6), b.addresses(6))
                print(d.status())
        finally:
            print(d.log())
        print(lan.foreign_frames())
