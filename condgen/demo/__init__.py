"""The ``condgen demo`` command, an interactive web page for sampling from trained generators. Requires gradio."""
