"""The little of torchvision that the peers' scripts use, on Pillow and PyTorch; its `transforms` only."""
