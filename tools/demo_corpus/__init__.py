"""Synthesised music with tags and genres, for `make demo`."""
