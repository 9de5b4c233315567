"""`finetune ui`: a local page for teaching a model and looking at it.

What the page shows is read from files, and what it does is done by commands in processes of their own: it
holds no state that matters, so that it can be closed, reloaded or opened twice. Only `page`, `tabs` and
`serving` know Gradio.
"""
