"""Files: atomic writes, locks, and reading other people's tensors without executing anything."""
