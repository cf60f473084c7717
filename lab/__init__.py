"""A LAN in namespaces and guests to put on it, for tests, demo and benchmarks; never shipped."""
