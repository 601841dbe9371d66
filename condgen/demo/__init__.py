"""``condgen demo``: a page in the browser on which runs generate images. Needs gradio."""
