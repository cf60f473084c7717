"""QEMU and libvirt guests straight on the LAN behind a host interface, Wi-Fi included.

Imported by the bridge helper on every guest start: nothing but the version may stand here.
"""

__version__ = "0.1.0"
