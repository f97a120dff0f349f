"""What features are: every number that decides the values in a shard, and a fingerprint of them."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True)
class FrontendSpec:
    """Kaldi's log-mel filterbank: frames without padding, DC removed and pre-emphasised per frame, power spectrum,
    triangular filters on the mel scale 1127 ln(1 + f/700), natural log with a floor.

    Samples are in [-1, 1]. Frame i covers samples [i * hop_samples, i * hop_samples + window_samples).
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

    def __post_init__(self) -> None:
        if self.mels < 1:
            raise ValueError(f"frontend: mels is {self.mels}; it must be 1 or more")
        if not 0 < self.hop_samples <= self.window_samples <= self.fft_samples:
            raise ValueError("frontend: needs 0 < hop_samples <= window_samples <= fft_samples")
        if self.fft_samples < 2 or self.fft_samples & (self.fft_samples - 1):
            raise ValueError(f"frontend: fft_samples is {self.fft_samples}; it must be a power of two, such as 512")
        if not 0 <= self.low_hz < self.high_hz <= self.sample_rate / 2:
            raise ValueError(f"frontend: needs 0 <= low_hz < high_hz <= sample_rate/2 = {self.sample_rate / 2:g}")
        if self.window not in ("povey", "hann"):
            raise ValueError(f"frontend: window is {self.window!r}; it can be povey or hann")

    @property
    def frame_s(self) -> float:
        """Seconds from the start of one frame to the start of the next."""
        return self.hop_samples / self.sample_rate

    def num_frames(self, num_samples: int) -> int:
        """Frames in `num_samples` samples: only those whose whole window is there."""
        return max(0, 1 + (num_samples - self.window_samples) // self.hop_samples)

    @property
    def fingerprint(self) -> str:
        """12 hex digits that two specs share only when they make the same features."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


def check_same(ours: FrontendSpec, theirs: FrontendSpec, ours_name: str, theirs_name: str, mend: str) -> None:
    """Raises ValueError that names the fields in which two specs differ and the command that would mend it."""
    differing = [f.name for f in fields(FrontendSpec) if getattr(ours, f.name) != getattr(theirs, f.name)]
    if differing:
        pairs = ", ".join(f"{n} {getattr(ours, n)} against {getattr(theirs, n)}" for n in differing)
        raise ValueError(f"{ours_name} and {theirs_name} have other features: {pairs}. {mend}")
