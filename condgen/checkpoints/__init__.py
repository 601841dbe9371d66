"""Checkpoints: which file is meant (find), its content as data (read, write), and objects built from it (build)."""
