"""Tests of `finetune.data`."""
