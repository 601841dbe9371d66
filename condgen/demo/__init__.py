"""A page in the browser that shows what runs draw. Only ``page.py`` needs gradio."""
