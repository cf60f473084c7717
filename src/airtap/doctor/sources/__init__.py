"""What a diagnosis reads: one module for each source. None of them changes anything."""
