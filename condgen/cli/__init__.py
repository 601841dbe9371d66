"""The command line. It knows every other package; no other package knows it."""
