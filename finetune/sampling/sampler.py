"""Pictures from prompts, with any model, LoRAs and sampler."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from finetune.backbones import Backbone, load_stored
from finetune.backbones.controlnet import FOLDER, find_branch, read_branch
from finetune.backbones.memory import move
from finetune.backbones.precision import best_device, compute_dtype, dtype_on, precision_name, vae_dtype
from finetune.backbones.quantize import quantization_of
from finetune.backbones.words import AddedWord
from finetune.config import ModelSection
from finetune.data.control import check_control_kind
from finetune.formats import Applied, read_embedding
from finetune.kernels import packed
from finetune.sampling.control import Control, ControlImages
from finetune.sampling.denoise import Progress, Setup, Ticker
from finetune.sampling.loras import acting, add_lora, merge_loras
from finetune.sampling.passes import make_pictures, step_counts
from finetune.sampling.pictures import Picture
from finetune.sampling.placement import borrowed, plain_layers
from finetune.sampling.plan import Given, Job, plan
from finetune.sampling.sample import Sample
from finetune.sampling.settings import Choices, SamplingSection
from finetune.sampling.spans import check_acts
from finetune.sampling.specs import ControlSpec, EmbeddingSpec, LoRASpec, parse_embedding, parse_lora
from finetune.sampling.texts import encode_texts, notes_on

if TYPE_CHECKING:  # in `typing` itself from Python 3.11
    from typing_extensions import Unpack

# How much goes through the UNet at once: 32 pictures of 64 px (16x16 latents), 4 of 512 px, 1 of 1024 px.
_MOST_PICTURES, _MOST_POSITIONS = 32, 16384


class Sampler:
    """Samples pictures from a backbone with diffusers' schedulers.

    ```python
    from finetune import Sampler

    sampler = Sampler.load("storybook", loras=["runs/mycat-lora"])
    sampler("a photo of mycat on snow")[0].save("mycat.png")
    ```

    A picture depends only on its prompt, seed, settings and model: its noise comes from a generator
    of its own on the CPU (so every device draws the same), as `torch.Generator().manual_seed(seed)`
    given to a diffusers pipeline would. Batching changes only the rounding of float sums. The
    global random state is never touched. A model that is being trained can be sampled: its device and
    train/eval mode are restored.

    Args:
        backbone: The model.
        device: Where to sample; "auto" is where the UNet is.
        precision: "fp32", "bf16", "fp16" or "auto" (`dtype_on`); the weights are not converted.

    Raises:
        ConfigError: No precision has that name.
    """

    def __init__(
        self, backbone: Backbone, device: str | torch.device = "auto", precision: str = "auto"
    ) -> None:
        self.backbone = backbone
        self.loras: list[tuple[str, float]] = []
        self._beside: list[Applied] = []
        self.embeddings: list[str] = []
        self.controls: list[Control] = []
        self._device = None if device == "auto" else torch.device(device)
        self._precision = precision
        compute_dtype(precision, backbone.unet, self.device)  # a wrong name is an error now

    @classmethod
    def load(
        cls,
        model: str | ModelSection = "auto",
        *,
        loras: Sequence[LoRASpec] = (),
        embeddings: Sequence[EmbeddingSpec] = (),
        controlnets: Sequence[str | Path | ControlSpec] = (),
        device: str | torch.device = "auto",
        precision: str = "auto",
    ) -> Sampler:
        """Loads a model, LoRAs, new words and ControlNets and puts them on the GPU, if there is one.

        LoRAs are merged into the weights, unless these are quantized, or there are several LoRAs and a DoRA
        among them.

        Args:
            model: A diffusers folder, Hub id, single-file checkpoint or alias.
            loras: Run folders or safetensors files, each as `PATH`, `"PATH:WEIGHT"` or `(PATH, WEIGHT)`.
            embeddings: Run folders or safetensors files of new words, each as `PATH`, `"PATH:WORD"` or
                `(PATH, WORD)`.
            controlnets: Run folders, diffusers folders or files; a `ControlSpec` says how strongly and when.
            device: "auto" is the first GPU, else the CPU.
            precision: The weights are converted to it.

        Raises:
            ModelError: The model cannot be found, read or recognized.
            WeightsError: A LoRA, embedding or ControlNet is damaged or made for something else.
            ConfigError: A weight or the precision is not valid, or the model knows a new word already.
        """
        specs = [parse_lora(lora) for lora in loras]
        controls = [c if isinstance(c, ControlSpec) else ControlSpec(Path(c)) for c in controlnets]
        for control in controls:
            find_branch(control.path)
        section = model if isinstance(model, ModelSection) else ModelSection.named(model)
        place = best_device() if device == "auto" else torch.device(device)
        sampler, quantized = cls(load_stored(section), place, precision), section.quantize != "none"
        sampler.loras += merge_loras(sampler.backbone, () if quantized else specs)
        for embedding in embeddings:
            sampler.add_embedding(*parse_embedding(embedding), allow_pickle=section.allow_pickle)
        backbone = sampler.backbone
        dtype = dtype_on(precision, place, backbone.unet)
        backbone.to(place, dtype)
        backbone.vae_dtype = vae_dtype(section.vae_precision, dtype, place)
        for control in controls:
            sampler.add_controlnet(control)
        for lora in specs if quantized else ():
            sampler.add_lora(*lora)
        return sampler

    @property
    def device(self) -> torch.device:
        """Where pictures are made."""
        return self._device or self.backbone.device

    def add_lora(self, path: str | Path, weight: float = 1.0) -> None:
        """Adds a LoRA on top of those already there, with the new words that were learned with it.

        Args:
            path: A run folder or a safetensors file in any key layout.
            weight: 0 is off, 1 as trained; may be negative or above 1.

        Raises:
            WeightsError: The file is damaged or does not fit the model; nothing was changed.
            ConfigError: The weight is not finite, or the model knows a word of it already.
        """
        added, applied = add_lora(self.backbone, *parse_lora((path, weight)))
        self.loras.append(added)
        self._beside.append(applied)

    def set_lora_weights(self, weights: Sequence[float]) -> None:
        """Changes the weights of the LoRAs that were added with `add_lora`, in their order.

        Raises:
            ValueError: There are not as many weights as such LoRAs.
        """
        merged = len(self.loras) - len(self._beside)
        for place, (applied, weight) in enumerate(zip(self._beside, weights, strict=True), start=merged):
            applied.set_scale(weight)
            self.loras[place] = (self.loras[place][0], weight)

    def add_embedding(self, path: str | Path, word: str | None = None, *, allow_pickle: bool = False) -> None:
        """Adds a new word (textual inversion) that prompts can then say.

        Args:
            path: A run folder or a safetensors file, ours or someone else's.
            word: The word; if None, the one in the file, else the file's name.
            allow_pickle: Your permission to read a pickle (A1111's .pt), weights only.

        Raises:
            WeightsError: The file is damaged or does not fit the model; nothing was changed.
            ModelError: It is a pickle, and there is no permission.
            ConfigError: The model knows the word already.
        """
        learned = read_embedding(path, self.backbone, word, allow_pickle=allow_pickle)
        AddedWord(self.backbone, learned)
        self.embeddings.append(learned.text)

    def add_controlnet(self, control: str | Path | ControlSpec) -> None:
        """Adds a ControlNet beside those already there; calls then need `control_images`.

        Args:
            control: A run folder, a diffusers folder or a file; a `ControlSpec` says how strongly it acts.

        Raises:
            WeightsError: It is damaged or does not fit the model.
            ConfigError: It needs a library that is missing to make its control pictures.
        """
        spec = control if isinstance(control, ControlSpec) else ControlSpec(Path(control))
        check_control_kind(spec.preprocess)
        branch = read_branch(spec.path, self.backbone)
        unet = next(self.backbone.unet.parameters())
        move(branch, unet.device, unet.dtype)
        self.controls.append(Control(_control_name(spec.path), branch, spec))

    def __call__(
        self,
        prompts: str | Sequence[str],
        *,
        control_images: ControlImages | None = None,
        init: Picture | Sequence[Picture] | None = None,
        mask: Picture | Sequence[Picture] | None = None,
        seed: int | Sequence[int] = 0,
        batch_size: int | None = None,
        frames: int = 0,
        progress: Progress | None = None,
        **choices: Unpack[Choices],
    ) -> list[Sample]:
        """Samples `num` pictures of each prompt.

        Args:
            prompts: One prompt or several.
            control_images: For each ControlNet a picture (or its path) for all prompts, or one for each
                prompt; with a single ControlNet its entry alone. The first sets the size if none is
                given.
            init: A picture (or its path) to begin with instead of noise, for all prompts or one for each.
                The first sets the size if none is given.
            mask: Where `init` is repainted (white); where it is black, its pixels stay.
            seed: Seed of the first picture of each prompt, or one such seed for each prompt; the k-th
                picture of a prompt uses seed + k.
            batch_size: Most pictures to run at once; chosen by their size if None.
            frames: Moments of the denoising to keep of each picture (`Sample.frames`).
            progress: Called after every UNet step with the number of steps done and the total.
            choices: Fields of `SamplingSection`: `negative`, `steps`, `guidance`, `scheduler`, `num`,
                `size` (pixels: one number or (width, height)), `strength` and `outpaint` (with `init`),
                `hires`, `hires_strength` and `hires_upscaler` (without).

        Returns:
            The pictures, prompt by prompt.

        Raises:
            ConfigError: A setting is unknown or out of range, the sampler does not fit the model, or
                pictures are missing or of another shape.
            DataError: A picture cannot be read.
            FinetuneError: A picture is not finite, because the precision is too low for the model
                or its weights are broken.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        given = Given(prompts, seed, control_images, init, mask)
        jobs, settings = plan(self.backbone, self.controls, given, choices)
        if not jobs:
            return []
        size = batch_size or self.most_at_once(settings.final_size)
        return self._sample(jobs, settings, size, frames, progress)

    def most_at_once(self, size: tuple[int, int]) -> int:
        """How many pictures of `size` (width, height in pixels) go through the UNet together by default."""
        width, height = (side // self.backbone.latent_factor for side in size)
        return max(1, min(_MOST_PICTURES, _MOST_POSITIONS // (width * height)))

    def _sample(
        self,
        jobs: Sequence[Job],
        settings: SamplingSection,
        batch_size: int,
        frames: int,
        progress: Progress | None,
    ) -> list[Sample]:
        backbone, device = self.backbone, self.device
        dtype = compute_dtype(self._precision, backbone.unet, device)
        batches = [jobs[start : start + batch_size] for start in range(0, len(jobs), batch_size)]
        counts = step_counts(settings, backbone.scheduler)
        tick = Ticker(progress, len(batches) * sum(counts))
        if self._beside:
            check_acts("A LoRA", "lora_steps", settings.lora_steps, counts)
        for control in self.controls:
            check_acts("A ControlNet", control.name, control.spec.span, counts)
        ends = [job.toward.prompt for job in jobs if job.toward]
        prompts = [*(job.prompt for job in jobs), *ends, settings.negative]
        loop = [backbone.unet, *(control.branch for control in self.controls)]
        merged = len(self.loras) - len(self._beside)
        beside = [(lora, weight) for lora, (_, weight) in zip(self._beside, self.loras[merged:], strict=True)]
        with acting(beside, merged, settings) as at:
            texts = encode_texts(backbone, prompts, settings, device, dtype)
            setup = Setup(backbone, self.controls, texts, settings, device, dtype, frames, at)
            with borrowed([*loop, backbone.vae], device), packed(plain_layers(loop)):
                pictures = [made for batch in batches for made in make_pictures(setup, batch, tick)]
        notes = {prompt: notes_on(backbone, prompt, settings) for prompt in texts.rows}
        return [
            Sample(
                image=made.image,
                prompt=job.prompt,
                seed=job.seed,
                settings=settings,
                given=job.record,
                model=backbone.name,
                loras=tuple(self.loras),
                embeddings=tuple(self.embeddings),
                controls=tuple(control.info() for control in self.controls),
                precision=precision_name(dtype),
                quantize=quantization_of(backbone.unet),
                max_tokens=75 * backbone.pieces if backbone.pieces > 1 else None,
                notes=notes[job.prompt] + (job.canvas.notes if job.canvas else ()),
                frames=made.frames,
            )
            for job, made in zip(jobs, pictures, strict=True)
        ]


def _control_name(path: Path) -> str:
    """The run's name for a run folder; else the folder's."""
    place = path.expanduser().resolve()
    return place.parent.name if place.name == FOLDER else place.name
