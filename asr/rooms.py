"""Made-up rooms: what a microphone hears of one click some metres away, for reverberation without recorded responses.

The statistical model of late reverberation (J.-D. Polack, "La transmission de l'énergie sonore dans les salles", Le
Mans 1988): Gaussian noise that decays exponentially, by 60 dB in the time T60. How loud it is against the direct sound
follows from H. Kuttruff, "Room Acoustics", chapter 5: both are equally strong at the critical distance, the direct
sound falls with the square of the distance, the reverberant one is the same everywhere.
"""

import math

import numpy as np
import numpy.typing as npt

SOUND_M_S = 343.0


def response(
    sample_rate: int, t60_s: float, distance_m: float, volume_m3: float, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Float32 [samples]: the direct sound, 1.0, is the first sample, so what is convolved with it stays in its place.

    The room is taken for a cube. Its reverberation begins when sound has gone the mean way between two walls, and is
    cut off where it is 60 dB down.
    """
    onset = max(1, round(mean_free_path_m(volume_m3) / SOUND_M_S * sample_rate))
    times_s = np.arange(round(t60_s * sample_rate)) / sample_rate
    tail_t = rng.standard_normal(len(times_s)) * np.exp(-3 * math.log(10) * times_s / t60_s)
    energy = (
        distance_m / critical_distance_m(t60_s, volume_m3)
    ) ** 2  # of the tail, where that of the direct sound is 1
    tail_t *= math.sqrt(energy / max(float(np.sum(tail_t**2)), 1e-12))
    return np.concatenate([[1.0], np.zeros(onset - 1), tail_t]).astype(np.float32)


def critical_distance_m(t60_s: float, volume_m3: float) -> float:
    """Of a source that sends alike in all directions: 0.057 sqrt(V / T60)."""
    return 0.057 * math.sqrt(volume_m3 / t60_s)


def mean_free_path_m(volume_m3: float) -> float:
    """4 V / S, V the volume and S the surface, of a cube."""
    return 4 * volume_m3 / (6 * volume_m3 ** (2 / 3))
