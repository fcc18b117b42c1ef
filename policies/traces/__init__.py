"""Resource traces shipped with patchd, as JSON lines."""
