"""A loaded Stable Diffusion: the only owner of family knowledge."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from finetune.backbones import latents, text
from finetune.backbones.families import Family
from finetune.backbones.fingerprint import content_hash, fingerprint, text_settings
from finetune.backbones.inpainting import PaintEverything
from finetune.backbones.memory import computing_in, is_trained, move, release
from finetune.backbones.names import classic_text_name, numbered
from finetune.backbones.pipeline import make_pipeline
from finetune.backbones.predict import residuals, unet_arguments
from finetune.diffusion.batch import Conditioning

Size = tuple[int, int]


@dataclass
class Backbone(ABC):
    """A pretrained Stable Diffusion, frozen and on the CPU when loaded.

    Each family is a subclass; only it knows how text is encoded, which sizes the UNet is conditioned on, and
    what things are called in files.

    Attributes:
        encoder_classes: The text encoders' classes in transformers.
        pipeline_class: diffusers' pipeline; `branched_class` is the one with ControlNets, `inpainting_class`
            the one that an inpainting model is saved as.
        pipeline_options: Its arguments besides the model's parts.
        kohya_roots: The prefix of kohya's keys for each of `module_roots`.
        original_text: For each text encoder, its structure (`clip` or `open_clip`) and key prefix in
            checkpoints of the original code.
        published_predictions: The prediction types of the family's published models.
        family: `sd1`, `sd2` or `sdxl`.
        name: What the user called it, for messages and metadata.
        unet: The `UNet2DConditionModel`.
        vae: The `AutoencoderKL`; however it is held, it computes in fp32 (SDXL's overflows in fp16).
        text_encoders: One, or two for SDXL. On a CPU they are held as loaded, unless they are trained.
        tokenizers: One for each text encoder.
        scheduler: The model's own; betas and prediction type are read from it.
        notes: What the user should know about how the model was loaded.
        pieces: How many pieces of 75 tokens a caption may have; each is encoded by itself.
        text_dtype: What frozen text encoders compute in; None for trained ones, whose weights are cast.
        vae_dtype: What the VAE's large convolutions multiply in all the same, fp32 or bf16.
    """

    encoder_classes: ClassVar[tuple[Any, ...]]
    pipeline_class: ClassVar[Any]
    branched_class: ClassVar[Any]
    inpainting_class: ClassVar[Any]
    pipeline_options: ClassVar[dict[str, Any]]
    kohya_roots: ClassVar[dict[str, str]]
    original_text: ClassVar[tuple[tuple[str, str], ...]]
    published_predictions: ClassVar[tuple[str, ...]] = ("epsilon",)

    family: Family
    name: str
    unet: Any
    vae: Any
    text_encoders: tuple[Any, ...]
    tokenizers: tuple[Any, ...]
    scheduler: Any
    notes: tuple[str, ...] = ()
    pieces: int = 1
    text_dtype: torch.dtype | None = torch.float32
    vae_dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.inpaints:
            self.unet.register_forward_pre_hook(PaintEverything(self.vae, self.latent_factor))
            self.notes += ("This is an inpainting model; here its mask covers the whole picture.",)

    @property
    def latent_factor(self) -> int:
        """Pixels per latent along a side (8 for the published models)."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def latent_channels(self) -> int:
        """Channels of a latent (4 for the published models)."""
        return int(self.vae.config.latent_channels)

    @property
    def inpaints(self) -> bool:
        """Whether the UNet takes a mask and a masked picture too."""
        return bool(self.unet.config.in_channels == 2 * self.latent_channels + 1)

    @property
    def native_size(self) -> int:
        """Side in pixels that the model was trained at."""
        return int(self.unet.config.sample_size) * self.latent_factor

    @property
    def prediction_type(self) -> str:
        """What the UNet predicts: `epsilon`, `v_prediction` or `sample`."""
        return str(self.scheduler.config.prediction_type)

    @property
    def token_length(self) -> int:
        """Tokens of a piece of a caption, begin and end included (77 for the published models)."""
        return text.token_length(self.tokenizers, self.text_encoders)

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        return torch.device(next(self.unet.parameters()).device)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the UNet's frozen weights, or of its trained ones if there are no others."""
        weights: list[nn.Parameter] = list(self.unet.parameters())
        return next((p.dtype for p in weights if not p.requires_grad), weights[0].dtype)

    def fingerprint(self) -> str:
        """Content hash of every weight and setting of the model, hexadecimal; take it before changes."""
        unet = fingerprint([self.unet], [self.unet.config, dict(self.scheduler.config)])
        return content_hash(unet, self.fingerprint_vae(), self.fingerprint_text())

    def fingerprint_vae(self) -> str:
        """Content hash of everything that latents depend on, hexadecimal."""
        return fingerprint([self.vae], [self.vae.config])

    def fingerprint_text(self) -> str:
        """Content hash of everything that text embeddings depend on, hexadecimal."""
        limits = f"{self.token_length} x {self.pieces}"
        read = text_settings(self.tokenizers, self.text_encoders)
        return fingerprint(self.text_encoders, [self.family, limits, *read])

    # --- text ----------------------------------------------------------------------------------

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Captions to token ids, truncated to what fits: `[B, encoders, T]` int64 on the CPU."""
        return text.tokenize(self.tokenizers, captions, self.token_length, self.pieces)

    def truncated(self, caption: str) -> str | None:
        """The end of `caption` that the model will not see, in whole words; None if all of it fits."""
        return text.truncated(self.tokenizers[0], caption, self.pieces * (self.token_length - 2) + 2)

    def encode_text(self, tokens: Tensor, skip: int = 0) -> tuple[Tensor, Tensor | None]:
        """Token ids to text embeddings; differentiable if the encoders are trained.

        Args:
            tokens: `[B, encoders, T]` from `tokenize`; moved to the encoders' device.
            skip: How many of the last layers to leave out, of those that the family uses.

        Returns:
            Hidden states `[B, T, D]` for cross-attention and the pooled text `[B, P]` (SDXL only).
        """
        rows = text.apart(tokens.to(next(self.text_encoders[0].parameters()).device), self.token_length)
        with computing_in(self.text_dtype, self.text_encoders):
            return text.together(*self._encode_text(rows.unbind(1), skip), tokens.shape[0])

    @abstractmethod
    def _encode_text(self, planes: Sequence[Tensor], skip: int) -> tuple[Tensor, Tensor | None]:
        """As `encode_text`, from the tokens `[B, T]` of each text encoder, on its device."""

    def time_ids(self, original: Size, crop: Size, target: Size) -> Tensor | None:
        """The UNet's size conditioning for one picture.

        Args:
            original: Height and width of the picture before it was resized, in pixels.
            crop: Top and left of the crop in the resized picture, in pixels.
            target: Height and width of what the UNet sees, in pixels.

        Returns:
            `[1, 6]` fp32, or None for families that have none.
        """
        return None

    def conditioning(
        self, captions: Sequence[str], sizes: Sequence[tuple[Size, Size, Size]] | None = None
    ) -> Conditioning:
        """Tokens and time ids of captions, on the CPU.

        Args:
            captions: `B` captions.
            sizes: The arguments of `time_ids` for each; uncropped pictures of native size if None.
        """
        side = (self.native_size, self.native_size)
        rows = sizes if sizes is not None else [(side, (0, 0), side)] * len(captions)
        ids = [t for t in (self.time_ids(*row) for row in rows) if t is not None]
        return Conditioning(tokens=self.tokenize(captions), time_ids=torch.cat(ids) if ids else None)

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures to the posterior of their latents, scaled as the UNet wants them.

        Args:
            pixels: `[B, 3, H, W]` in [-1, 1]; H and W multiples of `latent_factor`.

        Returns:
            Mean and standard deviation, each `[B, C, H/f, W/f]` fp32. A latent is mean + std x noise.
        """
        return latents.encode(self.vae, pixels, self.vae_dtype)

    @torch.no_grad()
    def decode(self, scaled: Tensor) -> Tensor:
        """Scaled latents `[B, C, h, w]` to pictures `[B, 3, h x f, w x f]` in [-1, 1], fp32."""
        return latents.decode(self.vae, scaled, self.vae_dtype)

    def predict(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning, branch: Any = None
    ) -> Tensor:
        """The UNet's prediction for noisy latents.

        Args:
            noisy_latents: `[B, C, h, w]` scaled latents with noise.
            timesteps: `[B]` in [0, number of training timesteps).
            conditioning: `B` rows; text embeddings are computed from its tokens if it has none.
            branch: A `ControlNetModel` that sees `conditioning.control` and adds residuals inside the UNet
                (arXiv:2302.05543); None for the UNet alone.

        Returns:
            `[B, C, h, w]`: noise, velocity or clean latents, depending on `prediction_type`.
        """
        if conditioning.hidden is None:
            if conditioning.tokens is None:
                raise ValueError("a Conditioning needs hidden or tokens")
            hidden, pooled = self.encode_text(conditioning.tokens)
            conditioning = replace(conditioning, hidden=hidden, pooled=pooled)
        dtype = self.dtype
        arguments = unet_arguments(self.unet, conditioning, noisy_latents.device, dtype)
        if branch is not None:
            arguments |= residuals(branch, noisy_latents, timesteps, conditioning, dtype)
        prediction: Tensor = self.unet(noisy_latents.to(dtype), timesteps, return_dict=False, **arguments)[0]
        return prediction

    def pipeline(self, branches: Sequence[Any] = (), kind: Any = None) -> Any:
        """A diffusers pipeline that shares these very modules: no safety checker, no progress bar.

        With the UNet in half precision decode with `decode` (`output_type="latent"`): the VAE is not. With
        an inpainting model it paints the whole picture, and must be given `latents`.

        Args:
            branches: `ControlNetModel`s to use.
            kind: The pipeline's class; `pipeline_class` if None, or `branched_class` with branches.
        """
        return make_pipeline(self, branches, kind)

    # --- memory --------------------------------------------------------------------------------

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Backbone:
        """Moves all parts to `device`, casts the UNet's frozen weights to `dtype`, and returns the backbone.

        The text encoders then compute in it. Trained weights keep their precision, as all do without `dtype`.
        """
        move(self.unet, device, dtype)
        for module in (*self.text_encoders, self.vae):
            move(module, device, None)
        if dtype is not None:
            self.set_text_dtype(dtype)
        return self

    def set_text_dtype(self, dtype: torch.dtype) -> None:
        """Has the text encoders compute in `dtype`; frozen ones stay as they are on a CPU."""
        trained = any(map(is_trained, self.text_encoders))
        if trained or self.device.type != "cpu":
            for encoder in self.text_encoders:
                move(encoder, self.device, dtype)
        self.text_dtype = None if trained else dtype

    def free_encoders(self, *, text: bool = True) -> None:
        """Moves frozen encoders to the CPU; if mapped from a file, they take no memory until used again."""
        for module in (m for m in (self.vae, *(self.text_encoders if text else ())) if not is_trained(m)):
            move(module, "cpu", None)
            release(module)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # --- names in files ------------------------------------------------------------------------

    def module_roots(self) -> dict[str, nn.Module]:
        """The trainable models by the key prefixes of diffusers' LoRA files."""
        names = numbered("text_encoder", len(self.text_encoders))
        return {"unet": self.unet, **dict(zip(names, self.text_encoders, strict=True))}

    def file_name(self, root: str, module_name: str) -> str:
        """The classic dotted name of a live module or parameter below `root`, as in diffusers' files."""
        module = self.module_roots()[root]
        return module_name if root == "unet" else classic_text_name(module, module_name)

    def kohya_unet_name(self, module_name: str) -> str:
        """A UNet module's name in kohya's files, without prefix."""
        return module_name.replace(".", "_")

    def kohya_name(self, root: str, module_name: str) -> str:
        """The full kohya name of a live module below `root`, e.g. `lora_te_text_model_encoder_…`."""
        if root == "unet":
            tail = self.kohya_unet_name(module_name)
        else:
            tail = self.file_name(root, module_name).replace(".", "_")
        return f"{self.kohya_roots[root]}_{tail}"
