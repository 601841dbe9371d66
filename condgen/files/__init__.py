"""File utilities: size-limited reads, atomic writes, locks, and PNG and GIF images."""
