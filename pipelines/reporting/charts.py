"""Pictures without a library: histograms as inline SVG, and arrays as PNG in a colour map that is even to the eye."""

import base64
import functools
import math
import struct
import zlib
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

BINS = 40  # at most
# At each end an axis leaves out at most one value and a hundredth of them, and only those that are so many times the
# distance of the quartiles away from them: a single utterance of ten minutes would squeeze all others into one bar.
OUTLIER = 3.0
_COLOURS = 64
_BAR = 10  # width of a bar in a histogram's own units, its gap included


@dataclass(frozen=True, slots=True)
class Axis:
    """Bins of one width from `start` on. What lies below or above them, where anything does, is in the last bin."""

    start: float
    step: float
    bins: int
    below: bool
    above: bool

    @property
    def end(self) -> float:
        return self.start + self.step * self.bins

    def counts(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        places = np.floor((values - self.start) / self.step)
        return np.bincount(np.clip(places, 0, self.bins - 1).astype(np.int64), minlength=self.bins)

    def beyond(self) -> str:
        """Where the last bars hold more than their own bins, in words."""
        sides = [f"below {number(self.start)}"] * self.below + [f"above {number(self.end)}"] * self.above
        return f"What is {' or '.join(sides)} is in the last bar there." if sides else ""

    def ticks(self) -> list[float]:
        """Round values on the axis, seven at most."""
        step = round_up((self.end - self.start) / 6)
        first = math.ceil(self.start / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.end / step + 1e-9) + 1)]

    def place(self, value: float) -> float:
        """Where a value stands, in percent of the axis."""
        return float(min(max((value - self.start) / (self.end - self.start), 0), 1) * 100)


def axis(values: npt.NDArray[np.float64], from_zero: bool) -> Axis:
    """An axis with round steps for these values (one or more, all finite), but for outliers."""
    ordered = np.sort(values)
    few = len(values) // 100 + 1
    some, most = float(ordered[min(few, len(values) - 1)]), float(ordered[max(0, len(values) - 1 - few)])
    least, quarter, three, greatest = (float(v) for v in np.quantile(ordered, [0, 0.25, 0.75, 1]))
    reach = OUTLIER * (three - quarter)
    low = 0.0 if from_zero else max(least, min(some, quarter - reach))
    high = min(greatest, max(most, three + reach))
    step = round_up(max(high - low, abs(high) / 10, 1e-3) / (BINS - 1))
    start = math.floor(low / step) * step
    bins = math.floor((high - start) / step) + 1
    return Axis(start, step, bins, (least - start) / step < 0, (greatest - start) / step >= bins)


def round_up(value: float) -> float:
    """The least of 1, 2, 5, 10, 20, 50, … (and of 0.5, 0.2, …) that is not below `value`."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= value * (1 - 1e-9))


def number(value: float) -> str:
    """A value of an axis without the noise of its last bits."""
    return f"{value:.6g}"


def histogram(counts: npt.NDArray[np.int64], along: Axis, top: float, unit: str, about: str) -> str:
    """Bars of the shares of `counts`, up to the share `top`. A bar says its figures when pointed at.

    The picture fills whatever box it is given, so letters stand outside, in HTML.
    """
    total = max(1, int(counts.sum()))
    bars = []
    for i, count in enumerate(counts.tolist()):
        if count:
            height = max(1.0, min(1.0, count / total / top) * 100)
            title = escape(f"{_bin_name(along, i)} {unit}: {count:,} ({100 * count / total:.3g} %)")
            bars.append(
                f'<rect x="{i * _BAR}" y="{100 - height:.1f}" width="{_BAR - 1}" height="{height:.1f}">'
                f"<title>{title}</title></rect>"
            )
    return (
        f'<svg viewBox="0 0 {along.bins * _BAR} 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(about)}">{"".join(bars)}</svg>'
    )


def _bin_name(along: Axis, i: int) -> str:
    left, right = (number(along.start + along.step * edge) for edge in (i, i + 1))
    if along.above and i == along.bins - 1:
        return f"{left} and above"
    return f"below {right}" if along.below and i == 0 else f"{left} – {right}"


def top_share(counts: npt.NDArray[np.int64]) -> float:
    """A round share that no bar exceeds."""
    return min(1.0, round_up(float(counts.max()) / max(1, int(counts.sum()))))


def heat_map(values_yx: npt.NDArray[np.float32], low: float, high: float) -> str:
    """`png` as a data: URI."""
    return data_uri("image/png", png(values_yx, low, high))


def png(values_yx: npt.NDArray[np.float32], low: float, high: float) -> bytes:
    """A picture with a pixel for each value, row 0 at the top, dark for `low` and bright for `high`."""
    scaled = (values_yx - low) * (_COLOURS - 1) / max(high - low, 1e-9)
    pixels = np.clip(np.rint(scaled), 0, _COLOURS - 1).astype(np.uint8)
    height, width = pixels.shape
    rows = np.zeros((height, width + 1), np.uint8)  # every row of a PNG begins with its filter: 0, none
    rows[:, 1:] = pixels
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, data)
        for kind, data in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),  # 8 bits, an index into the palette
            (b"PLTE", palette().tobytes()),
            (b"IDAT", zlib.compress(rows.tobytes(), 9)),
            (b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def data_uri(mime: str, data: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


@functools.cache
def palette() -> npt.NDArray[np.uint8]:
    """Colours [64, RGB] from deep violet over red to pale yellow, in even steps of lightness.

    A line through Björn Ottosson's colour space OKLab, whose first axis is the lightness that people see
    (https://bottosson.github.io/posts/oklab/).
    """
    t = np.linspace(0, 1, _COLOURS)
    lightness, chroma, hue = 0.14 + 0.82 * t, 0.03 + 0.15 * np.sin(np.pi * t), np.radians(285 + 170 * t)
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    cones = lab @ np.array(
        [[1, 1, 1], [0.3963377774, -0.1055613458, -0.0894841775], [0.2158037573, -0.0638541728, -1.2914855480]]
    )
    linear = cones**3 @ np.array(
        [
            [4.0767416621, -1.2684380046, -0.0041960863],
            [-3.3077115913, 2.6097574011, -0.7034186147],
            [0.2309699292, -0.3413193965, 1.7076147010],
        ]
    )
    linear = np.clip(linear, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * srgb).astype(np.uint8)
