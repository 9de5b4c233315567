"""Pictures with the statistics of natural ones, generated from noise.

The autoencoder is also trained on these, so that it can reconstruct
edges, shades and textures that the storybook does not have.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Field = NDArray[np.float32]

# Earth, leaves, sky, skin, stone, sunset, sea, blossom: four tones each.
_PALETTES: Field = np.array(
    [
        [(72, 52, 38), (128, 96, 66), (186, 156, 116), (222, 206, 176)],
        [(34, 54, 28), (74, 104, 46), (132, 152, 78), (196, 204, 130)],
        [(70, 112, 170), (124, 168, 214), (190, 212, 232), (240, 244, 246)],
        [(92, 52, 44), (164, 104, 80), (214, 164, 134), (240, 210, 186)],
        [(44, 46, 50), (96, 98, 100), (148, 146, 142), (204, 202, 196)],
        [(58, 34, 66), (154, 62, 74), (232, 126, 66), (252, 212, 130)],
        [(14, 42, 64), (26, 92, 112), (72, 158, 162), (186, 224, 212)],
        [(96, 38, 72), (196, 74, 118), (240, 160, 178), (250, 226, 220)],
    ],
    dtype=np.float32,
)


@cache
def _spectrum(size: int, slope: float) -> Field:
    """Returns amplitudes that fall with frequency; 0 for the mean."""
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    radius = np.hypot(fy, fx)
    radius[0, 0] = 1.0
    amplitude = radius**-slope
    amplitude[0, 0] = 0.0
    return np.asarray(amplitude, dtype=np.float32)


def _noise(rng: np.random.Generator, size: int, slope: float, channels: int) -> Field:
    """Returns noise with spectrum 1/f**slope and unit variance, channels first."""
    amplitude = _spectrum(size, slope)
    shape = (2, channels, *amplitude.shape)
    waves = rng.standard_normal(shape, dtype=np.float32)
    field = np.fft.irfft2((waves[0] + 1j * waves[1]) * amplitude, s=(size, size))
    field /= field.std(axis=(1, 2), keepdims=True) + 1e-6
    return field.astype(np.float32)


def _colors(rng: np.random.Generator, count: int) -> Field:
    """Draws colors near the tones of one palette; some pictures mix two."""
    families = rng.integers(len(_PALETTES), size=2)
    which = families[(rng.random(count) < 0.25).astype(int)]
    tones = _PALETTES[which, rng.integers(4, size=count)]
    jitter = rng.normal(0, 12, (count, 3)) + rng.normal(0, 18, (count, 1))
    if rng.random() < 0.15:  # The storybook's bright colors also exist in photographs.
        tones[: count // 2] = rng.integers(0, 256, (count // 2, 3))
    return np.asarray(np.clip(tones + jitter, 0, 255), dtype=np.float32)


def _leaves(rng: np.random.Generator, size: int) -> Field:
    """Draws dead leaves: overlapping discs with power-law radii, softly lit."""
    count, big = int(rng.integers(40, 140)), size * 2
    smallest, largest = rng.uniform(0.02, 0.06), rng.uniform(0.25, 0.5)
    # Inverse transform of p(r) ~ r^-3, which makes the picture scale-free.
    share = rng.random(count)
    radii = (smallest**-2 + share * (largest**-2 - smallest**-2)) ** -0.5 * big
    radii *= np.linspace(1.6, 1.0, count)
    centers = rng.uniform(-0.1, 1.1, (count, 2)) * big
    stretch = rng.uniform(0.5, 1.6, count)
    colors = _colors(rng, count + 1).astype(int).tolist()
    sheet = Image.new("RGB", (big, big), tuple(colors[-1]))
    pencil = ImageDraw.Draw(sheet)
    boxes = np.stack(
        [
            centers[:, 0] - radii * stretch,
            centers[:, 1] - radii / stretch,
            centers[:, 0] + radii * stretch,
            centers[:, 1] + radii / stretch,
        ],
        axis=1,
    ).tolist()
    square = rng.random(count) < (0.5 if rng.random() < 0.3 else 0.0)
    for box, color, straight in zip(boxes, colors, square.tolist(), strict=False):
        shape = pencil.rectangle if straight else pencil.ellipse
        shape(box, fill=tuple(color))
    picture = np.asarray(sheet.reduce(2), dtype=np.float32).transpose(2, 0, 1)
    light = 1 + rng.uniform(0.02, 0.2) * _noise(rng, size, 2.0, 1)
    return np.asarray(picture * light, dtype=np.float32)


def _clouds(rng: np.random.Generator, size: int) -> Field:
    """Draws colored 1/f noise whose channels are correlated, as in photographs."""
    slope = (0.9, 1.2, 1.5, 2.0)[int(rng.integers(4))]
    field = _noise(rng, size, slope, 3)
    along = rng.uniform(0.4, 0.95)
    field = along * field[:1] + (1 - along) * field
    mean = _colors(rng, 1).reshape(3, 1, 1)
    return np.asarray(mean + rng.uniform(18, 60) * field, dtype=np.float32)


def _gradient(rng: np.random.Generator, size: int) -> Field:
    """Draws a smooth, slightly nonlinear blend of four corner colors."""
    corners = _colors(rng, 4).reshape(2, 2, 3)
    ramp = np.linspace(0, 1, size, dtype=np.float32) ** np.float32(rng.uniform(0.5, 2.0))
    left = corners[0, 0] + (corners[1, 0] - corners[0, 0]) * ramp[:, None]
    right = corners[0, 1] + (corners[1, 1] - corners[0, 1]) * ramp[:, None]
    blend = left[:, None] + (right - left)[:, None] * ramp[None, :, None]
    return np.ascontiguousarray(blend.transpose(2, 0, 1))


def draw_texture(rng: np.random.Generator, size: int = 64) -> Image.Image:
    """Draws a random picture of dead leaves, noise, gradients or mixtures.

    Args:
        rng: Source of all randomness.
        size: Side of the picture in pixels.
    """
    kind = rng.random()
    if kind < 0.45:
        picture = _leaves(rng, size)
    elif kind < 0.60:
        picture = _clouds(rng, size)
    elif kind < 0.68:
        picture = _gradient(rng, size)
    elif kind < 0.80:  # A smooth surface with grain, such as a wall or cloth.
        picture = _gradient(rng, size)
        picture = picture + np.float32(rng.uniform(3, 16)) * _noise(rng, size, 0.9, 1)
    else:  # Two textures with an irregular border, such as a coast or the edge of a forest.
        first = _leaves(rng, size) if rng.random() < 0.6 else _clouds(rng, size)
        second = _clouds(rng, size) if rng.random() < 0.5 else _gradient(rng, size)
        sharp = rng.uniform(2, 12)
        border = np.clip(0.5 + sharp * _noise(rng, size, 2.0, 1), 0, 1).astype(np.float32)
        picture = first * border + second * (1 - border)
    pixels = np.clip(picture, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(pixels))
