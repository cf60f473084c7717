"""Every check there is, in the order of the diagnosis.

A check is a generator of findings on what was read. It gets what its section gets: see
diagnosis.py. The last sentence of its docstring names every level that it yields, and the ids of
what is not ok: "Yields ok; problem ID or ID, REMARK; warning ID." A test compares that with the
code.
"""

from .checks import daemon, devices, dhcp, firewall, host, kernel, libvirt, macnat, uplink, wifi

KERNEL = (kernel.kinds, kernel.clsact, kernel.programs, kernel.tun, kernel.vhost_net, kernel.dev)
DAEMON = (daemon.configuration, daemon.answers, daemon.socket_mode, daemon.version, daemon.lost)
ACL = (host.acl,)
NAMED = (host.uplinks, host.absent)
UPLINK = (
    uplink.type_of,
    uplink.carrier,
    uplink.holder,
    uplink.strangers,
    uplink.kinds_agree,
    uplink.bridged,
    wifi.macnat_wanted,
    wifi.passthru,
    macnat.on_uplink,
    macnat.on_devices,
    uplink.driver,
    wifi.iwd,
    uplink.arp,
    uplink.ipv6,
    uplink.acl,
    firewall.devices,
    firewall.bridges,
    devices.up,
    devices.nodes,
    devices.stale,
    devices.host_kept_off,
    devices.addresses,
    devices.managed,
    devices.guests,
    devices.routers,
    dhcp.leases,
)
HOOK = (libvirt.hook_file, libvirt.hook_active)
LIBVIRT = (libvirt.answers, libvirt.networks, libvirt.cards, libvirt.clones)
SESSION = (libvirt.session,)
LOG = (host.denials,)
UNSEEN = (host.unseen,)
