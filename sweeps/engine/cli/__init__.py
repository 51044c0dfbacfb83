"""The `spt` command."""
