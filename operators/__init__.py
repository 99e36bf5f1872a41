"""Memory between events: one idea per file, synchronous, with time as an argument."""
