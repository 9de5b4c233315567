"""The bundled model: its world of drawn pictures, how it is made, and how its pictures are measured."""

# Modules of this package are run with `python -m`: the libraries are imported here first, by way of
# `finetune`, which keeps from the terminal what they say of themselves meanwhile.
from finetune import Sampler as Sampler
