"""Every decoder of what others send, or of files, under Hypothesis: `scripts/fuzz` runs long."""
