"""The command ``condgen demo``, which serves a page on which trained generators generate images. It needs gradio."""
