"""airtap try: a throw-away guest on an uplink, to see whether guests work there."""
