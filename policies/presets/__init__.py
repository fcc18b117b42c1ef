"""Presets shipped with patchd, as TOML files."""
