"""The device monitor: small readers of /proc and /sys, one a resource, and the snapshot they make together."""
