"""What a diagnosis decides: pure functions of what was read."""
