"""The command line. It imports every other package of condgen, and no other package imports it."""
