"""How figures look, on paper and in the app: colours, dashes, markers, smoothing. Imports no matplotlib."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Theme = Literal["light", "dark"]
FileFormat = Literal["svg", "pdf", "png"]

PALETTE: dict[Theme, tuple[str, ...]] = {
    "light": ("#4d4d4d", "#e69f00", "#b2609a", "#0072b2", "#d55e00", "#009e73", "#3fa0d8", "#8a7a00"),
    "dark": ("#c8c8c8", "#f0b429", "#dd8fc4", "#5aa9e6", "#ff7f4d", "#2fc79a", "#9ad4f5", "#d6c544"),
}
"""After Okabe and Ito: told apart with the common kinds of colour blindness; dashes and markers say the same again."""
DASHES = ("-", "--", ":", "-", "-", "-.", "--", (0, (3, 1, 1, 1)))
MARKERS = ("o", "s", "v", "D", "^", "P", "X", "<")
INK: dict[Theme, tuple[str, str, str]] = {
    "light": ("#ffffff", "#22252a", "#dfe2e6"),
    "dark": ("#1b1e23", "#e4e6ea", "#3a3f47"),
}
"""Background, text, grid."""


def smooth(values: NDArray[np.floating], width: int) -> NDArray[np.float64]:
    """Centred moving mean; near the ends over what there is."""
    half = width // 2
    return np.array([values[max(0, at - half) : at + half + 1].mean() for at in range(len(values))])


def smoothing_width(steps: int) -> int:
    """An odd number of steps, about a twentieth of the run."""
    return 2 * (steps // 40) + 1
