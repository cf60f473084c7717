"""One module per kernel interface; nothing above this floor is imported here."""
