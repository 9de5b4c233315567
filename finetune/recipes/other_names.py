"""What other trainers call our settings, so that their users find the name here."""

from __future__ import annotations

from collections.abc import Container

OTHER_NAMES = {
    "model.name": ["pretrained_model_name_or_path"],
    "model.prediction_type": ["v_parameterization"],
    "data.data_dir": ["train_data_dir", "instance_data_dir", "image_dir"],
    "data.instance_dir": ["train_data_dir", "instance_data_dir", "image_dir"],
    "data.dataset": ["dataset_name"],
    "data.dataset_config": ["dataset_config_name"],
    "data.control_column": ["conditioning_image_column"],
    "data.class_dir": ["class_data_dir", "reg_data_dir"],
    "data.conditioning_dir": ["conditioning_data_dir"],
    "data.prior_weight": ["prior_loss_weight"],
    "data.caption_dropout": ["caption_dropout_rate"],
    "data.buckets": ["enable_bucket", "aspect_ratio_bucketing"],
    "data.bucket_step": ["bucket_reso_steps"],
    "data.flip": ["random_flip", "flip_aug"],
    "data.color_jitter": ["color_aug"],
    "data.crop": ["center_crop", "random_crop"],
    "data.cache": ["cache_latents"],
    "data.cache_dir": ["cache_latents_to_disk"],
    "data.mask": ["masked_loss", "alpha_mask"],
    "adapter.rank": ["network_dim", "lora_rank", "dim"],
    "adapter.alpha": ["network_alpha", "lora_alpha"],
    "adapter.dropout": ["network_dropout"],
    "adapter.algorithm": ["network_module"],
    "adapter.conv_rank": ["conv_dim"],
    "adapter.block_rank": ["block_dims"],
    "adapter.dora": ["use_dora"],
    "adapter.placeholder": ["placeholder_token", "token_string"],
    "adapter.initializer": ["initializer_token", "init_word"],
    "adapter.vectors": ["num_vectors"],
    "adapter.start": ["controlnet_model_name_or_path"],
    "objective.loss": ["loss_type"],
    "objective.min_snr_gamma": ["snr_gamma"],
    "objective.offset_noise": ["noise_offset"],
    "objective.pyramid_noise": ["multires_noise_discount"],
    "objective.pyramid_levels": ["multires_noise_iterations"],
    "objective.input_perturbation": ["ip_noise_gamma"],
    "objective.weighting": ["debiased_estimation_loss"],
    "objective.timesteps": ["min_timestep", "max_timestep"],
    "optimizer.lr": ["learning_rate", "unet_lr"],
    "optimizer.text_encoder_lr": ["text_encoder_lr"],
    "optimizer.schedule": ["lr_scheduler"],
    "optimizer.warmup_steps": ["lr_warmup_steps"],
    "optimizer.schedule_cycles": ["lr_num_cycles", "lr_scheduler_num_cycles"],
    "optimizer.schedule_power": ["lr_power", "lr_scheduler_power"],
    "optimizer.name": ["optimizer_type", "use_8bit_adam"],
    "optimizer.weight_decay": ["adam_weight_decay"],
    "optimizer.eps": ["adam_epsilon"],
    "training.steps": ["max_train_steps", "num_train_steps", "max_steps"],
    "training.epochs": ["max_train_epochs", "num_train_epochs", "max_epochs"],
    "training.batch_size": ["train_batch_size"],
    "training.accumulation": ["gradient_accumulation_steps"],
    "training.precision": ["mixed_precision"],
    "training.ema": ["use_ema"],
    "training.checkpoint_every": ["checkpointing_steps", "save_every_n_steps"],
    "training.keep_checkpoints": ["checkpoints_total_limit"],
    "training.trackers": ["report_to", "log_with", "tensorboard"],
    "preview.prompts": ["validation_prompt", "sample_prompts"],
    "preview.every": ["validation_steps", "sample_every_n_steps"],
    "output.name": ["output_name"],
    "output.weights": ["save_precision"],
}
"""Dotted key here → its names elsewhere; of two keys with the same name, the recipe's own counts."""

_ENTRY_NAMES = {
    "dir": ["image_dir", "data_dir", "instance_dir", "path"],
    "repeats": ["num_repeats"],
    "prompt": ["class_tokens", "instance_prompt"],
    "prefix": ["caption_prefix"],
    "suffix": ["caption_suffix"],
    "caption_dropout": ["caption_dropout_rate"],
    "class_pictures": ["is_reg"],
    "conditioning_dir": ["conditioning_data_dir"],
}

_XFORMERS = (
    "Leave it out: PyTorch's own attention needs just as little memory, and xFormers is used where it is "
    "faster; training.attention=xformers insists on it."
)

ANSWERS = {
    "resume_from_checkpoint": "Use --resume: it continues from the last checkpoint.",
    "with_prior_preservation": "Use --class-prompt: then class pictures are trained on too.",
    "save_every_n_epochs": "Use --set training.checkpoint_every=STEPS.",
    "caption_extension": "Leave it out: captions are .txt or .caption files with the pictures' names.",
    "enable_xformers_memory_efficient_attention": _XFORMERS,
    "xformers": _XFORMERS,
    "sdpa": "Leave it out, or use --set training.attention=sdpa.",
    "torch_compile": "Use --set training.compile=true.",
    "allow_tf32": "Use --set training.tf32=true.",
}
"""What is not a setting here → what to do instead."""


def key_here(name: str, keys: Container[str]) -> str | None:
    """The dotted key, one of `keys`, of what other trainers call `name`; None if there is none."""
    return next((key for key, names in OTHER_NAMES.items() if name in names and key in keys), None)


def entry_name_here(name: str, fields: Container[str]) -> str | None:
    """As `key_here`, of a setting of one of several folders; `fields` are those that there are."""
    return next((own for own, names in _ENTRY_NAMES.items() if name in names and own in fields), None)
