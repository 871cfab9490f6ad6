"""The corpus: witnesses on disk, read back without trust, and replayed."""
