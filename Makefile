# airtap. `make setup` installs everything the other targets need, on a bare Debian 12 as root.

PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

DESTDIR ?=
PREFIX ?= /usr
LIBDIR := $(PREFIX)/lib/airtap

# What the tests, the demo and the benchmarks use, and what building libvirt-python needs.
PACKAGES := python3 python3-venv python3-dev gcc pkg-config libvirt-dev \
	qemu-system-x86 qemu-system-common ipxe-qemu dnsmasq-base iproute2 nftables \
	iputils-ping busybox-static systemd

.PHONY: help setup test test-unit lint demo bench install uninstall clean

help:
	@echo 'make demo       two QEMU guests on a LAN of their own, in namespaces'
	@echo 'make test       lint, type check and every test'
	@echo 'make test-unit  the tests that need no root'
	@echo 'make bench      airtap-bridge-helper against its peers'
	@echo 'make setup      what the above need: Debian packages and .venv/'
	@echo 'make install    to $$DESTDIR$$PREFIX;  make uninstall: the reverse'

setup: $(READY)

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

test: setup lint
	$(BIN)/python -m pytest

test-unit: setup
	$(BIN)/python -m pytest tests/unit

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: setup
	$(BIN)/python -m lab.demo $(DEMO)

bench: setup
	$(BIN)/python -m benchmarks.helper

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
