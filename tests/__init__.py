"""The tests of finetune; they mirror the package."""
