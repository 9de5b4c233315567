"""Where everything is that the peers need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """A folder with the peers' code, environments, model and pictures; `benchmarks.peers.setup` makes it.

    Args:
        root: An absolute path.
    """

    root: Path

    @property
    def model(self) -> Path:
        """Stable Diffusion 1.5 with random weights, fp16, as a diffusers folder."""
        return self.root / "sd1"

    @property
    def pictures(self) -> Path:
        """Pictures of a subject, without captions."""
        return self.root / "data" / "mycat"

    @property
    def repeated(self) -> Path:
        """A folder of folders, as kohya reads them, each named by how often its pictures are repeated."""
        return self.root / "data" / "kohya"

    @property
    def pairs(self) -> Path:
        """Pictures and their edges."""
        return self.root / "data" / "pairs"

    @property
    def tokenizers(self) -> Path:
        """Where kohya looks for CLIP's tokenizer before it asks the Hub."""
        return self.root / "tokenizers"

    @property
    def results(self) -> Path:
        """Tables, figures, and what the processes wrote."""
        return self.root / "results"

    def code(self, peer: str) -> Path:
        """The sources of `diffusers` or `kohya`."""
        return self.root / peer / "code"

    def python(self, peer: str) -> Path:
        """The interpreter of a peer's environment."""
        return self.root / peer / "venv" / "bin" / "python"
