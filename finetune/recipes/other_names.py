"""What other trainers call our settings, so that their users find the name here."""

from __future__ import annotations

from collections.abc import Container

OTHER_NAMES: dict[str, str | tuple[str, ...]] = {
    "pretrained_model_name_or_path": "model.name",
    "v_parameterization": "model.prediction_type",
    "train_data_dir": ("data.data_dir", "data.instance_dir"),
    "instance_data_dir": ("data.instance_dir", "data.data_dir"),
    "image_dir": ("data.data_dir", "data.instance_dir"),
    "class_data_dir": "data.class_dir",
    "reg_data_dir": "data.class_dir",
    "conditioning_data_dir": "data.conditioning_dir",
    "prior_loss_weight": "data.prior_weight",
    "caption_dropout_rate": "data.caption_dropout",
    "random_flip": "data.flip",
    "flip_aug": "data.flip",
    "center_crop": "data.crop",
    "random_crop": "data.crop",
    "cache_latents": "data.cache",
    "cache_latents_to_disk": "data.cache_dir",
    "masked_loss": "data.mask",
    "alpha_mask": "data.mask",
    "network_dim": "adapter.rank",
    "lora_rank": "adapter.rank",
    "dim": "adapter.rank",
    "network_alpha": "adapter.alpha",
    "lora_alpha": "adapter.alpha",
    "network_dropout": "adapter.dropout",
    "network_module": "adapter.algorithm",
    "conv_dim": "adapter.conv_rank",
    "block_dims": "adapter.block_rank",
    "use_dora": "adapter.dora",
    "placeholder_token": "adapter.placeholder",
    "token_string": "adapter.placeholder",
    "initializer_token": "adapter.initializer",
    "init_word": "adapter.initializer",
    "num_vectors": "adapter.vectors",
    "controlnet_model_name_or_path": "adapter.start",
    "loss_type": "objective.loss",
    "snr_gamma": "objective.min_snr_gamma",
    "noise_offset": "objective.offset_noise",
    "multires_noise_discount": "objective.pyramid_noise",
    "multires_noise_iterations": "objective.pyramid_levels",
    "ip_noise_gamma": "objective.input_perturbation",
    "debiased_estimation_loss": "objective.weighting",
    "min_timestep": "objective.timesteps",
    "max_timestep": "objective.timesteps",
    "learning_rate": "optimizer.lr",
    "unet_lr": "optimizer.lr",
    "text_encoder_lr": "optimizer.text_encoder_lr",
    "lr_scheduler": "optimizer.schedule",
    "lr_warmup_steps": "optimizer.warmup_steps",
    "lr_num_cycles": "optimizer.schedule_cycles",
    "lr_scheduler_num_cycles": "optimizer.schedule_cycles",
    "lr_power": "optimizer.schedule_power",
    "lr_scheduler_power": "optimizer.schedule_power",
    "optimizer_type": "optimizer.name",
    "use_8bit_adam": "optimizer.name",
    "adam_weight_decay": "optimizer.weight_decay",
    "adam_epsilon": "optimizer.eps",
    "max_train_steps": "training.steps",
    "num_train_steps": "training.steps",
    "max_steps": "training.steps",
    "train_batch_size": "training.batch_size",
    "gradient_accumulation_steps": "training.accumulation",
    "mixed_precision": "training.precision",
    "use_ema": "training.ema",
    "checkpointing_steps": "training.checkpoint_every",
    "save_every_n_steps": "training.checkpoint_every",
    "checkpoints_total_limit": "training.keep_checkpoints",
    "report_to": "training.tensorboard",
    "log_with": "training.tensorboard",
    "validation_prompt": "preview.prompts",
    "validation_steps": "preview.every",
    "sample_every_n_steps": "preview.every",
    "sample_prompts": "preview.prompts",
    "output_name": "output.name",
    "save_precision": "output.weights",
}
"""Name elsewhere → dotted key here; of several, the first that the recipe has."""

ANSWERS = {
    "resume_from_checkpoint": "Use --resume: it continues from the last checkpoint.",
    "with_prior_preservation": "Use --class-prompt: then class pictures are trained on too.",
    "max_train_epochs": "Use --steps; an epoch is the number of pictures divided by the batch size.",
    "num_train_epochs": "Use --steps; an epoch is the number of pictures divided by the batch size.",
    "save_every_n_epochs": "Use --set training.checkpoint_every=STEPS.",
    "caption_extension": "Leave it out: captions are .txt files with the pictures' names.",
    "enable_xformers_memory_efficient_attention": "Leave it out: PyTorch's own attention is used, which "
    "needs just as little memory.",
    "xformers": "Leave it out: PyTorch's own attention is used, which needs just as little memory.",
    "sdpa": "Leave it out: PyTorch's own attention is always used.",
}
"""What is not a setting here → what to do instead."""


def key_here(name: str, keys: Container[str]) -> str | None:
    """The dotted key, one of `keys`, of what other trainers call `name`; None if there is none."""
    known = OTHER_NAMES.get(name, ())
    candidates = (known,) if isinstance(known, str) else known
    return next((key for key in candidates if key in keys), None)
