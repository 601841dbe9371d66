"""The command line. It may import any other package, but no other package may import it."""
