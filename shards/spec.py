"""What features are: every number that decides the values in a shard, and a fingerprint of them."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeVar

T = TypeVar("T")  # a number, or an array of them

# Fields that came after shards were made: left out at these values, so that those keep their fingerprints.
_LATER = {"definition": "kaldi"}


@dataclass(frozen=True)
class FrontendSpec:
    """Log-mel features of samples in [-1, 1], by one of two definitions.

    `kaldi`: frames without padding, DC removed and pre-emphasised per frame, power spectrum, triangular filters on the
    mel scale 1127 ln(1 + f/700), natural log with a floor. Frame i covers samples [i * hop_samples, i * hop_samples +
    window_samples).

    `librosa`: pre-emphasis over the whole signal, whose first sample stays, frames centred on sample i * hop_samples
    with the signal reflected at both ends, a symmetric Hann window in the middle of the transform, power spectrum,
    Slaney's filters and normalisation (librosa.filters.mel as it is called without options), log(x + 1e-20). What the
    checkpoints of an earlier system were trained on, see asr/import_bundle.py.
    """

    sample_rate: int = 16000
    window_samples: int = 400
    hop_samples: int = 160
    fft_samples: int = 512
    mels: int = 80
    low_hz: float = 20.0
    high_hz: float = 8000.0
    preemphasis: float = 0.97
    window: str = "povey"
    definition: Literal["kaldi", "librosa"] = "kaldi"

    def __post_init__(self) -> None:
        if not 1 <= self.mels <= 4096:
            raise ValueError(f"frontend: mels is {self.mels}; it must be from 1 to 4096")
        if not 0 < self.hop_samples <= self.window_samples <= self.fft_samples:
            raise ValueError("frontend: needs 0 < hop_samples <= window_samples <= fft_samples")
        if not 2 <= self.fft_samples <= 1 << 20 or self.fft_samples & (self.fft_samples - 1):
            raise ValueError(f"frontend: fft_samples is {self.fft_samples}; it must be a power of two, such as 512")
        if not 0 <= self.low_hz < self.high_hz <= self.sample_rate / 2:
            raise ValueError(f"frontend: needs 0 <= low_hz < high_hz <= sample_rate/2 = {self.sample_rate / 2:g}")
        if self.window not in ("povey", "hann"):
            raise ValueError(f"frontend: window is {self.window!r}; it can be povey or hann")
        if self.definition == "librosa" and self.window != "hann":
            raise ValueError(f"frontend: window is {self.window!r}; by the definition librosa it can be hann")

    @property
    def frame_s(self) -> float:
        """Seconds from the start of one frame to the start of the next."""
        return self.hop_samples / self.sample_rate

    def num_frames(self, num_samples: T) -> T:
        """Frames in `num_samples` samples; also of an array or tensor of such numbers.

        By Kaldi's definition they are those whose whole window is there. By librosa's there is one for each begun hop,
        but none where half a transform, which is what is reflected, is not there.
        """
        count: Any = num_samples
        if self.definition == "librosa":
            return (1 + count // self.hop_samples) * (count > self.fft_samples // 2)
        return (1 + (count - self.window_samples) // self.hop_samples) * (count >= self.window_samples)

    def least_samples(self, frames: int) -> int:
        """The fewest samples in which there are so many frames, 1 or more."""
        whole = (frames - 1) * self.hop_samples
        if self.definition == "librosa":
            return max(whole, self.fft_samples // 2 + 1)
        return whole + self.window_samples

    def values(self) -> dict[str, Any]:
        """The fields for a file, without later ones that are as they were before there was a choice."""
        return {key: value for key, value in asdict(self).items() if key not in _LATER or value != _LATER[key]}

    @property
    def fingerprint(self) -> str:
        """12 hex digits that two specs share only when they make the same features."""
        return hashlib.sha256(json.dumps(self.values(), sort_keys=True).encode()).hexdigest()[:12]


def check_same(ours: FrontendSpec, theirs: FrontendSpec, ours_name: str, theirs_name: str, mend: str) -> None:
    """Raises ValueError that names the fields in which two specs differ and the command that would mend it."""
    differing = [f.name for f in fields(FrontendSpec) if getattr(ours, f.name) != getattr(theirs, f.name)]
    if differing:
        pairs = ", ".join(f"{n} {getattr(ours, n)} against {getattr(theirs, n)}" for n in differing)
        raise ValueError(f"{ours_name} and {theirs_name} have other features: {pairs}. {mend}")
