"""airtap trace: decode what the programs record of a guest's frames, and tell it. Pure."""
