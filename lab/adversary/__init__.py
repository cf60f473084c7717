"""Adversaries that stand in the tests: a guest that says anything, and a user who does."""
