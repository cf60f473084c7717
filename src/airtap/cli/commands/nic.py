"""Which NIC of a domain a command line means."""

from ...errors import Problem
from ...libvirt.reader import Domain, Interface
from ...names import mac_address


def chosen_interface(domain: Domain, name: str, choice: str | None) -> Interface:
    """Return the NIC that --nic names, or the only one. Raises Problem which-nic, no-such-nic."""
    nics = domain.interfaces
    if not nics:
        raise Problem("no-such-nic", f"domain {name} has no network card")
    if choice is None:
        if len(nics) > 1:
            raise _which(f"domain {name} has {len(nics)} network cards", nics)
        return nics[0]
    wanted = mac_address(choice) if ":" in choice else choice
    for number, nic in enumerate(nics, 1):
        if wanted in (nic.mac, str(number)):
            return nic
    raise _which(f"domain {name} has no network card {choice[:64]}", nics)


def chosen_mac(domain: Domain, name: str, choice: str | None) -> str:
    """Return the MAC of the NIC to disconnect. Raises Problem as chosen_interface(), not-connected.

    A MAC may also be that of a NIC that has gone since.
    """
    noted = {each.mac for each in domain.nic_metadata}
    if not noted:
        raise Problem("not-connected", f"no network card of domain {name} was connected by airtap")
    if choice is None:
        if len(noted) > 1:
            nics = [nic for nic in domain.interfaces if nic.mac in noted]
            raise _which(f"domain {name} has {len(noted)} connected network cards", nics)
        return next(iter(noted))
    if ":" in choice and mac_address(choice) in noted:
        return mac_address(choice)
    mac = chosen_interface(domain, name, choice).mac
    if mac not in noted:
        what = f"network card {mac} of domain {name} was not connected by airtap"
        raise Problem("not-connected", what)
    return mac


def _which(what: str, nics: list[Interface]) -> Problem:
    return Problem("which-nic", what, f"--nic takes: {', '.join(nic.mac for nic in nics)}")
