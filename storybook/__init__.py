"""The bundled model: its world of drawn pictures, how it is made, and how its samples are measured."""

# Modules of this package are run with `python -m`: importing `finetune` first imports the libraries
# while their own log messages are silenced.
from finetune import Sampler as Sampler
