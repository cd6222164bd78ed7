"""What `benchmark` measures, one module per subject."""
