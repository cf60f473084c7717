"""airtap trace: what becomes of a guest's frames. traces.py is airtapd's part, the rest is pure."""
