"""A page in the browser that shows what runs draw. Only ``page.py`` and ``middleware.py`` need gradio."""
