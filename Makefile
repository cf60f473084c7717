# airtap. `make setup` installs everything the other targets need, on a bare Debian 12 as root.

PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
KERNELS := .kernels/.ready
USERMODE := .kernels/um/linux
PYROUTE2 := 0.9.7
ROOTS := .roots/.ready-$(PYROUTE2)

DESTDIR ?=
PREFIX ?= /usr

# What the tests, the demo and the benchmarks use, and what building libvirt-python needs. Nothing
# of these starts a Wi-Fi service: Debian ships hostapd masked, and wpa_supplicant idles on D-Bus.
# Nor one of libvirt's: the units are in libvirt-daemon-system; iptables is for its NAT networks.
PACKAGES := python3 python3-venv python3-dev gcc pkg-config libvirt-dev \
	qemu-system-x86 qemu-system-common ipxe-qemu dnsmasq-base iproute2 nftables procps \
	iputils-ping busybox-static systemd clang libbpf1 libbpf-dev \
	linux-libc-dev iperf3 isc-dhcp-client dhcpcd-base iputils-arping \
	hostapd wpasupplicant iw kmod libvirt-daemon iptables virtinst \
	debootstrap lintian python3-docutils man-db bash zsh fish ipxe \
	flex bison bc dwarves libelf-dev xz-utils

.PHONY: help setup tools test test-fast test-slow test-unit test-wifi test-adversary lint demo bench picture man \
	completions build install uninstall deb dist clean

# They install packages, and compile the same BPF object.
.NOTPARALLEL:

help:
	@echo 'make demo       QEMU and libvirt guests on a LAN of their own, in namespaces'
	@echo 'make test       lint, type check and all tests but the slow: half an hour'
	@echo 'make test-fast  what to run before each commit: lint, types, unit, wire, macnat and bpf'
	@echo 'make test-slow  those that are no part of make test: all of Wi-Fi on stock kernels'
	@echo 'make test-adversary  hostile guests and users, SECONDS=1200 of each'
	@echo 'make test-unit  the tests that need no root'
	@echo 'make test-wifi  the tests on Wi-Fi'
	@echo 'make bench      the bridge helper, libvirt hooks and MAC NAT against their peers'
	@echo 'make picture    docs/virt-manager.png, of a guest that a real virt-manager makes and starts'
	@echo 'make man        build/man/; make completions: build/completions/, for bash, zsh and fish'
	@echo 'make setup      what the above need: Debian packages, .venv/ and .kernels/'
	@echo 'make install    to $$DESTDIR$$PREFIX;  make uninstall: the reverse'
	@echo 'make deb dist   a Debian package; a wheel and an sdist: in dist/'

setup: tools $(KERNELS) $(USERMODE) $(ROOTS)

tools: $(READY)
	@$(PYTHON) hatch_build.py

$(READY): pyproject.toml Makefile helper/airtap-bridge-helper
	$(call install-packages,$(PACKAGES))
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

# The kernel of the fast machine; `make clean` for a newer one.
$(USERMODE): lab/uml.config | $(KERNELS)
	$(BIN)/python -m lab.uml
	touch $@

# Roots of Debian 12 and 13 to make and install the package in; `make clean` for newer ones.
$(ROOTS): lab/roots.py debian/control | $(READY)
	$(BIN)/python -m lab.roots pyroute2==$(PYROUTE2) $(BUILD_PACKAGES) $(DEB_PACKAGES)
	touch $@

# Modules side by side; each worker and machine has a sandbox of its own.
WORKERS ?= 4
PYTEST := $(BIN)/python -m pytest --durations=20
TOGETHER := -n $(WORKERS) --no-loadscope-reorder

test: setup lint deb dist
	$(PYTEST) $(TOGETHER)

test-fast: tools lint
	$(PYTEST) $(TOGETHER) -m "not slow and not machine" $(addprefix tests/,unit wire macnat bpf)

test-slow: setup
	$(PYTEST) $(TOGETHER) -m slow

test-unit: tools
	$(PYTEST) tests/unit

test-wifi: setup
	$(PYTEST) $(TOGETHER) tests/wifi

# The same bouts as in make test, which are short and have a seed of their own, but other ones.
SECONDS ?= 1200
SEED ?= $(shell date +%s)

test-adversary: tools $(KERNELS) $(USERMODE)
	AIRTAP_ADVERSARY_SECONDS=$(SECONDS) AIRTAP_ADVERSARY_SEED=$(SEED) $(PYTEST) tests/adversary

lint: tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: tools
	$(BIN)/python -m lab.demo $(DEMO)

bench: setup
	$(BIN)/python -m benchmarks.helper
	$(BIN)/python -m benchmarks.hooks
	$(BIN)/python -m benchmarks.fairness
	$(BIN)/python -m benchmarks.macnat_programs
	$(BIN)/python -m benchmarks.macnat
	$(BIN)/python -m lab.machine um -- $(BIN)/python -m benchmarks.wifi

# The README's picture, and a check that virt-manager's wizard brings a guest onto the LAN.
PICTURE_PACKAGES := virt-manager gir1.2-atspi-2.0 at-spi2-core dbus-daemon xvfb openbox imagemagick \
	adwaita-icon-theme librsvg2-common fonts-dejavu-core

picture: tools
	$(call install-packages,$(PICTURE_PACKAGES))
	$(BIN)/python -m lab.virt_manager docs/virt-manager.png

# These two need no .venv/: packages are built with Debian's Python and python3-docutils alone.
MAN := airtap.1 airtapd.8 airtap-bridge-helper.8 airtap.toml.5

man: $(MAN:%=build/man/%)

.SECONDEXPANSION:
build/man/%: docs/man/$$(basename $$*).rst
	@install -d $(@D)
	$(PYTHON) -m docutils --strict --syntax-highlight=none --writer=manpage $< $@

completions:
	$(PYTHON) tools/completions.py build/completions

# What is installed: programs in $(PREFIX)/bin, the package and pyroute2 (Debian 13's is too old) in
# a directory of their own, hooks for libvirt, units, and what keeps others off guests' devices.
# `airtap network` and `airtap domain` also need Debian's python3-libvirt and python3-lxml.
BUILD_PACKAGES := python3 python3-venv python3-docutils clang libbpf-dev linux-libc-dev
# The Debian package's source tree brings it along.
VENDOR := $(firstword $(wildcard vendor) build/vendor-$(PYROUTE2))
OBJECT := src/airtap/bpf/macnat.bpf.o

LIBDIR := $(PREFIX)/lib/airtap
UNITDIR ?= $(PREFIX)/lib/systemd/system
SHARE := $(PREFIX)/share
PROGRAMS := airtap airtapd airtap-bridge-helper
HOOKS := network qemu
# FROM:TO of each file that is installed as it is.
FILES := data/airtapd.service:$(UNITDIR)/airtapd.service \
	data/airtapd.socket:$(UNITDIR)/airtapd.socket \
	data/75-airtap.rules:$(PREFIX)/lib/udev/rules.d/75-airtap.rules \
	data/75-airtap.conf:$(PREFIX)/lib/NetworkManager/conf.d/75-airtap.conf \
	data/75-airtap.network:$(PREFIX)/lib/systemd/network/75-airtap.network \
	data/75-airtap.link:$(PREFIX)/lib/systemd/network/75-airtap.link \
	$(foreach xml,$(wildcard xml-templates/*.xml),$(xml):$(SHARE)/airtap/$(xml)) \
	build/man/airtap.1:$(SHARE)/man/man1/airtap.1 \
	build/man/airtap.toml.5:$(SHARE)/man/man5/airtap.toml.5 \
	build/man/airtapd.8:$(SHARE)/man/man8/airtapd.8 \
	build/man/airtap-bridge-helper.8:$(SHARE)/man/man8/airtap-bridge-helper.8 \
	build/completions/airtap.bash:$(SHARE)/bash-completion/completions/airtap \
	build/completions/_airtap:$(SHARE)/zsh/vendor-completions/_airtap \
	build/completions/airtap.fish:$(SHARE)/fish/vendor_completions.d/airtap.fish \
	$(foreach doc,README.md NEWS.md SECURITY.md $(wildcard docs/*.md docs/*.png docs/*.svg),$(doc):$(SHARE)/doc/airtap/$(doc))
# Its paths are those of packages.
ifeq ($(PREFIX),/usr)
FILES += data/usr.bin.airtap-bridge-helper:/etc/apparmor.d/usr.bin.airtap-bridge-helper
endif
# The administrator's own.
CONFIGURATION := airtap.toml bridge.conf

from = $(firstword $(subst :, ,$(1)))
to = $(lastword $(subst :, ,$(1)))

# Packages that are not there, on Debian; others see what is missing by what fails.
define install-packages
	@if command -v dpkg-query >/dev/null; then missing=$$(for p in $(1); do \
		dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || echo $$p; \
	done); if [ -n "$$missing" ]; then \
		echo "installing" $$missing && apt-get -qq update && \
		DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing; fi; fi
endef

# All that `make install` copies and that is not in the tree.
build: $(VENDOR)/pyroute2 man completions
	@$(PYTHON) hatch_build.py

build/vendor-$(PYROUTE2)/pyroute2:
	$(call install-packages,$(BUILD_PACKAGES))
	rm -rf build/pip build/wheels build/vendor*
	$(PYTHON) -m venv build/pip
	build/pip/bin/pip download --quiet --disable-pip-version-check --no-deps --dest build/wheels \
		pyroute2==$(PYROUTE2)
	$(PYTHON) -m zipfile -e build/wheels/pyroute2-*.whl build/vendor.new
	mv build/vendor.new build/vendor-$(PYROUTE2)

install: build
	install -d $(DESTDIR)$(LIBDIR)/hooks $(DESTDIR)$(PREFIX)/bin $(DESTDIR)/etc/airtap
	rm -rf $(DESTDIR)$(LIBDIR)/airtap $(DESTDIR)$(LIBDIR)/pyroute2
	$(call copy,src,airtap)
	$(call copy,$(VENDOR),pyroute2)
	$(foreach name,$(PROGRAMS),$(call launcher,helper/$(name),$(PREFIX)/bin/$(name)) &&) :
	$(foreach name,$(HOOKS),$(call launcher,hooks/$(name),$(LIBDIR)/hooks/$(name)) &&) :
	for hook in $(HOOKS); do \
		install -d $(DESTDIR)/etc/libvirt/hooks/$$hook.d && \
		sed 's|@HOOK@|'$$hook'|; s|@LIBDIR@|$(LIBDIR)|' data/libvirt-hook \
			>$(DESTDIR)/etc/libvirt/hooks/$$hook.d/50-airtap && \
		chmod 755 $(DESTDIR)/etc/libvirt/hooks/$$hook.d/50-airtap || exit 1; done
	$(foreach file,$(FILES),install -D -m 644 \
		$(call from,$(file)) $(DESTDIR)$(call to,$(file)) &&) :
	sed -i 's|/usr/bin/airtapd|$(PREFIX)/bin/airtapd|' $(DESTDIR)$(UNITDIR)/airtapd.service
	for file in $(CONFIGURATION); do \
		test -e $(DESTDIR)/etc/airtap/$$file || \
		install -m 644 data/$$file $(DESTDIR)/etc/airtap/$$file || exit 1; done
	$(COMPILE)

# The programs start three times as fast, and airtapd may not write there.
COMPILE ?= $(PYTHON) -m compileall -q $(addprefix -s ,$(DESTDIR)) -p / $(DESTDIR)$(LIBDIR)

copy = tar -C $(1) --exclude=__pycache__ --exclude='*.[ch]' --exclude='*.part' \
	--mode=u=rwX,go=rX -cf - $(2) | tar -C $(DESTDIR)$(LIBDIR) --no-same-owner -pxf -
launcher = install -m 755 $(1) $(DESTDIR)$(2) && \
	sed -i 's|^sys.path.insert.*|sys.path.insert(0, "$(LIBDIR)")|' $(DESTDIR)$(2)

# The administrator's own bridge.conf and airtap.toml stay. Directories that are empty now go. An
# airtapd that still runs is left alone, and says so.
uninstall:
	$(if $(DESTDIR),,-$(PREFIX)/bin/airtapd --clean-up)
	rm -rf $(DESTDIR)$(LIBDIR) $(DESTDIR)$(SHARE)/doc/airtap $(DESTDIR)$(SHARE)/airtap
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,$(PROGRAMS)) \
		$(patsubst %,$(DESTDIR)/etc/libvirt/hooks/%.d/50-airtap,$(HOOKS)) \
		$(foreach file,$(FILES),$(DESTDIR)$(call to,$(file)))
	cd $(DESTDIR)/ && for directory in $(PREFIX)/lib $(PREFIX)/bin $(SHARE)/doc \
		$(patsubst %,/etc/libvirt/hooks/%.d,$(HOOKS)) \
		$(sort $(foreach file,$(FILES),$(dir $(call to,$(file))))); do \
		if [ -d .$$directory ]; then \
		rmdir -p --ignore-fail-on-non-empty $${directory#/}; fi; done

# What the Debian package is made of.
DEB_PACKAGES := dpkg-dev
SOURCES := Makefile LICENSE README.md NEWS.md SECURITY.md hatch_build.py \
	data debian docs helper hooks src tools xml-templates
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' src/airtap/__init__.py)
DEB := build/deb
DIST := dist
TREE = $(DEB)/airtap-$(VERSION)

deb: build
	$(call install-packages,$(DEB_PACKAGES))
	rm -rf $(DEB) $(DIST)/*.deb && mkdir -p $(TREE) $(DIST)
	tar --exclude=__pycache__ --exclude='*.bpf.o*' -cf - $(SOURCES) | tar -C $(TREE) --no-same-owner -xf -
	cp -r $(VENDOR) $(TREE)/vendor
	sed -i '1s/(.*)/($(VERSION))/' $(TREE)/debian/changelog
	cd $(TREE) && { dpkg-checkbuilddeps 2>/dev/null || { apt-get -qq update && \
		DEBIAN_FRONTEND=noninteractive apt-get -qq build-dep -y --no-install-recommends ./; }; }
	cd $(TREE) && dpkg-buildpackage -us -uc
	cp $(DEB)/*.deb $(DIST)

# A wheel and an sdist.
dist:
	$(call install-packages,$(BUILD_PACKAGES))
	rm -rf build/frontend $(DIST)/*.whl $(DIST)/*.tar.gz
	$(PYTHON) -m venv build/frontend
	build/frontend/bin/pip install --quiet --disable-pip-version-check build
	build/frontend/bin/python -m build --outdir $(DIST) .

clean:
	rm -rf $(VENV) .kernels .roots dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
