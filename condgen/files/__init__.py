"""Files: bounded reading, atomic writing, locks, and images as PNG and GIF."""
