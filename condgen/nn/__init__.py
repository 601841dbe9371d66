"""Networks and numerical parts that the families share."""
