"""The demo corpus: synthesised music with tags and genres, for `make demo`."""
