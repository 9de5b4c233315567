"""The kinds of training, with what each is for in a line; `--help` reads this and imports nothing else."""

SUMMARIES = {
    "lora": "Teach a subject or a style as a small LoRA file.",
    "dreambooth": "Teach a subject to the whole model, keeping its class.",
    "full": "Train the whole model on captioned pictures.",
    "controlnet": "Make the model follow control pictures, such as edges.",
    "embedding": "Teach a new word (textual inversion), in a tiny file.",
    "distill": "Make a model need four steps instead of twenty-five (LCM-LoRA).",
    "pretrain": "Train a new, small model on captioned pictures, from scratch.",
}
FORMS = {
    "lora": "kohya",
    "distill": "kohya",
    "embedding": "embedding",
    "dreambooth": "merged",
    "full": "merged",
}
"""What `finetune export --to` makes of a checkpoint of a kind, so that it can be sampled with."""
