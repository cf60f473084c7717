"""libvirt: the networks, and later the domains and hooks, that bring its guests to airtap.

lxml and libvirt's own module are imported by the modules here that use them. Neither the
bridge helper nor airtapd may import this package.
"""
