"""Pictures in, captions out: any image-text-to-text model of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from finetune.backbones.part import check_complete, check_finite, unreadable
from finetune.backbones.precision import best_device, compute_dtype
from finetune.backbones.quiet import quiet
from finetune.captioning.find import find_model, own_code
from finetune.errors import ModelError, memory_ran_out

# What models are asked that need to be asked something. A chat model gets _REQUEST; others nothing, and they
# describe the picture.
_PROMPTS = {"florence2": "<DETAILED_CAPTION>"}
_REQUEST = "Describe this picture in one sentence, as a caption. Answer with the caption only."


class Caption(NamedTuple):
    """What a model says about a picture.

    Attributes:
        text: In one line; may be empty.
        whole: Whether the model came to its end.
    """

    text: str
    whole: bool


@dataclass(frozen=True)
class Captioner:
    """A loaded model that describes pictures.

    Attributes:
        model: One of transformers' models for image-text-to-text.
        processor: Its processor, of pictures and text.
        prompt: What it is asked; None to let it describe the picture.
        max_tokens: Tokens of a caption at most, as the model counts them.
    """

    model: Any
    processor: Any
    prompt: str | None
    max_tokens: int

    def __call__(self, images: Sequence[Image.Image]) -> list[Caption]:
        """A caption for each picture (RGB): the most likely one, so always the same."""
        inputs = self._inputs(images).to(self.model.device, self.model.dtype)
        with torch.no_grad(), quiet():
            tokens = self.model.generate(
                **inputs, do_sample=False, max_new_tokens=self.max_tokens, max_length=None
            )
        if _chats(self.processor):
            tokens = _answers(tokens, inputs["input_ids"])
        texts = self.processor.batch_decode(tokens, skip_special_tokens=True)
        ends = tokens[:, -1].tolist()
        return [
            Caption(" ".join(text.split()), end in self._ends) for text, end in zip(texts, ends, strict=True)
        ]

    @property
    def _ends(self) -> set[int]:
        """Tokens that stand at the end of a caption that is whole: its end, or padding after it."""
        own, tokenizer = self.model.generation_config.eos_token_id, self.processor.tokenizer
        known = [getattr(tokenizer, f"{name}_token_id", None) for name in ("eos", "sep", "pad")]
        return {*known, *(own if isinstance(own, list) else [own])} - {None}

    def _inputs(self, images: Sequence[Image.Image]) -> Any:
        if not _chats(self.processor):
            texts = {"text": [self.prompt] * len(images), "padding": True} if self.prompt else {}
            return self.processor(images=list(images), return_tensors="pt", **texts)
        request = {"type": "text", "text": self.prompt or _REQUEST}
        chats = [
            [{"role": "user", "content": [{"type": "image", "image": image}, request]}] for image in images
        ]
        return self.processor.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        )


def _chats(processor: Any) -> bool:
    return getattr(processor, "chat_template", None) is not None


def _answers(tokens: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """What was generated, without the chat before it, which some models repeat."""
    length = asked.shape[1]
    return tokens[:, length:] if torch.equal(tokens[:, :length], asked) else tokens


def load_captioner(
    name: str, *, prompt: str | None = None, max_tokens: int = 75, precision: str = "auto"
) -> Captioner:
    """Loads a model, on the GPU if there is one, and tries it on a small gray picture.

    Args:
        name: A folder or a Hub id.
        prompt: What the model is asked; None for what suits it. BLIP and its like continue the prompt.
        max_tokens: Tokens of a caption at most.
        precision: As the setting `training.precision`.

    Raises:
        ModelError: If there is no such model, it does not describe pictures, needs code of its own (promise
            P6), is damaged, or comes without safetensors.
        ConfigError: There is no such precision.
    """
    path, config = find_model(name)
    notes: list[str] = []
    where: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet():
            processor = AutoProcessor.from_pretrained(str(path), **where)
            model, info = AutoModelForImageTextToText.from_pretrained(
                str(path), use_safetensors=True, dtype="auto", output_loading_info=True, **where
            )
    except Exception as error:  # any fault of the files: each library has its own types for them
        raise unreadable(path, error) from error
    if "auto_map" in config and info.get("missing_keys"):
        raise own_code(name)
    check_complete(info, path, notes)
    check_finite(model, str(path))
    device = best_device()
    model = model.eval().requires_grad_(False).to(device, compute_dtype(precision, model, device))
    asked = prompt or _PROMPTS.get(str(config.get("model_type")))
    captioner = Captioner(model, processor, asked, max_tokens)
    _try(captioner, str(path))
    return captioner


def _try(captioner: Captioner, where: str) -> None:
    try:
        captioner([Image.new("RGB", (64, 64), "gray")])
    except Exception as error:  # each model has its own words for what it lacks
        if memory_ran_out(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"The model cannot describe a picture: {reason.rstrip('.')}.",
            where=where,
            fix="Say with --prompt what it is to be asked, if it needs that, or use another model.",
        ) from error
