"""libvirt: its networks and domains, in XML and in a daemon, and what puts guests on the LAN.

lxml and libvirt's own module are imported by the modules here that use them. Neither the bridge
helper nor airtapd may import this package; the hooks import reader.py and incoming.py, which need
neither.
"""
