"""One file per command other than `run`."""
