# airtap. `make setup` installs everything the other targets need, on a bare Debian 12 as root.

PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
KERNELS := .kernels/.ready

DESTDIR ?=
PREFIX ?= /usr
LIBDIR := $(PREFIX)/lib/airtap

# What the tests, the demo and the benchmarks use, and what building libvirt-python needs. Nothing
# of these starts a Wi-Fi service: Debian ships hostapd masked, and wpa_supplicant idles on D-Bus.
# Nor one of libvirt's: the units are in libvirt-daemon-system; iptables is for its NAT networks.
PACKAGES := python3 python3-venv python3-dev gcc pkg-config libvirt-dev \
	qemu-system-x86 qemu-system-common ipxe-qemu dnsmasq-base iproute2 nftables procps \
	iputils-ping busybox-static systemd clang libbpf1 libbpf-dev \
	linux-libc-dev iperf3 isc-dhcp-client dhcpcd-base iputils-arping \
	hostapd wpasupplicant iw kmod libvirt-daemon iptables virtinst

.PHONY: help setup tools test test-unit test-wifi test-wifi-slow lint demo bench install uninstall clean

help:
	@echo 'make demo       QEMU and libvirt guests on a LAN of their own, in namespaces'
	@echo 'make test       lint, type check and every test: about an hour'
	@echo 'make test-unit  the tests that need no root'
	@echo 'make test-wifi  the tests on Wi-Fi, on two kernels: about 40 minutes of these'
	@echo 'make test-wifi-slow  more of these, not part of make test: about half an hour'
	@echo 'make bench      the bridge helper, libvirt hooks and MAC NAT against their peers'
	@echo 'make setup      what the above need: Debian packages, .venv/ and .kernels/'
	@echo 'make install    to $$DESTDIR$$PREFIX;  make uninstall: the reverse'

setup: tools $(KERNELS)

tools: $(READY)
	@$(PYTHON) hatch_build.py

$(READY): pyproject.toml Makefile helper/airtap-bridge-helper
	@missing=$$(for p in $(PACKAGES); do \
		dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || echo $$p; \
	done); if [ -n "$$missing" ]; then \
		echo "installing" $$missing && apt-get -qq update && \
		DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing; fi
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	# The launcher instead of pip's: it starts without site-packages.
	ln -sf ../../helper/airtap-bridge-helper $(BIN)/airtap-bridge-helper
	$(PYTHON) -m compileall -q src/airtap
	touch $@

# Debian's kernels for the Wi-Fi machine, unpacked here and not installed; `make clean` for newer ones.
$(KERNELS): | $(READY)
	$(BIN)/python -m lab.kernels
	touch $@

test: setup lint
	$(BIN)/python -m pytest

test-unit: tools
	$(BIN)/python -m pytest tests/unit

# Fifty events, and a guest that runs Linux, emulated twice: half an hour for a real machine's minute.
test-wifi-slow: setup
	AIRTAP_MACHINE_TEST_S=1800 $(BIN)/python -m pytest tests/wifi/slow_*.py

test-wifi: setup
	$(BIN)/python -m pytest tests/wifi

lint: tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: tools
	$(BIN)/python -m lab.demo $(DEMO)

bench: setup
	$(BIN)/python -m benchmarks.helper
	$(BIN)/python -m benchmarks.hooks
	$(BIN)/python -m benchmarks.macnat_programs
	$(BIN)/python -m benchmarks.macnat
	$(BIN)/python -m lab.machine 6.12 -- $(BIN)/python -m benchmarks.wifi

# The package and pyroute2 (Debian 12's is too old) in a directory of their own. `airtap network`
# also needs Debian's python3-libvirt and python3-lxml.
install: tools
	rm -rf $(DESTDIR)$(LIBDIR)
	install -d $(DESTDIR)$(LIBDIR) $(DESTDIR)$(PREFIX)/bin $(DESTDIR)/etc/airtap \
		$(DESTDIR)$(PREFIX)/lib/systemd/system
	$(BIN)/pip install --quiet --disable-pip-version-check --target $(DESTDIR)$(LIBDIR) .
	rm -rf $(DESTDIR)$(LIBDIR)/bin
	for program in airtap airtapd airtap-bridge-helper; do \
		sed 's|^sys.path.insert.*|sys.path.insert(0, "$(LIBDIR)")|' helper/$$program \
			>$(DESTDIR)$(PREFIX)/bin/$$program && \
		chmod 755 $(DESTDIR)$(PREFIX)/bin/$$program || exit 1; done
	install -d $(addprefix $(DESTDIR)/etc/libvirt/hooks/,network.d qemu.d)
	for hook in network qemu; do \
		sed 's|^sys.path.insert.*|sys.path.insert(0, "$(LIBDIR)")|' hooks/$$hook \
			>$(DESTDIR)/etc/libvirt/hooks/$$hook.d/50-airtap && \
		chmod 755 $(DESTDIR)/etc/libvirt/hooks/$$hook.d/50-airtap || exit 1; done
	install -m 644 data/airtapd.service data/airtapd.socket $(DESTDIR)$(PREFIX)/lib/systemd/system/
	test -e $(DESTDIR)/etc/airtap/bridge.conf || \
		install -m 644 data/bridge.conf $(DESTDIR)/etc/airtap/bridge.conf

# The administrator's own bridge.conf and airtap.toml stay.
uninstall:
	rm -f $(patsubst %,$(DESTDIR)/etc/libvirt/hooks/%.d/50-airtap,network qemu)
	rm -rf $(DESTDIR)$(LIBDIR)
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,airtap airtapd airtap-bridge-helper)
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/lib/systemd/system/,airtapd.service airtapd.socket)

clean:
	rm -rf $(VENV) .kernels dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
