"""Tests on the one-MAC wire with both kinds of device: ipvtap's in a machine that has it."""

import pytest

# For a test whose fixtures, or itself, have a device_kind.
BOTH_KINDS = pytest.mark.parametrize(
    "device_kind",
    ["macvtap", pytest.param("ipvtap", marks=pytest.mark.machine("um"), id="um-ipvtap")],
    indirect=True,
)
# The same for what this system's kernel need not have: VLANs, VRFs.
BOTH_IN_MACHINE = pytest.mark.parametrize(
    "device_kind",
    [
        pytest.param(kind, marks=pytest.mark.machine("um"), id=f"um-{kind}")
        for kind in ("macvtap", "ipvtap")
    ],
    indirect=True,
)
