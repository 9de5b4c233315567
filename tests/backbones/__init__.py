"""Tests of `finetune.backbones`."""
