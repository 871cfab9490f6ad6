"""Studies: what diffuzz measures with itself."""
