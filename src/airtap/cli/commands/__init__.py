"""One module a command, imported when that command runs: each imports at its top what it needs."""
