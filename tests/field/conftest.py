"""The one-MAC wire."""

from lab.one_mac import airtapd, counting_lan, device_kind, lan

__all__ = ["airtapd", "counting_lan", "device_kind", "lan"]
