"""Samples to log-mel features with torch: those of asr.frontend, for batches of audio, on the device where they are.

Legend: b example, n sample of an example, t frame, s position in a frame, k frequency bin, f mel.
"""

import functools

import torch
from torch import Tensor

from asr import frontend
from shards.spec import FrontendSpec

CHUNK_FRAMES = 4096  # worked on at once, all examples' together: 40 MB with an FFT of 512. A CPU is slower with more


def logmel(samples_bn: Tensor, lens_b: Tensor, spec: FrontendSpec) -> tuple[Tensor, Tensor]:
    """Log-mel features [b, t, f] in float32 with zeros after each example's last frame, and the numbers of frames [b].

    `samples_bn` is float32 in [-1, 1] at spec.sample_rate; example b has the first lens_b[b] of them, and t is that of
    n samples. Works in float32 also under autocast. Raises ValueError for tensors of another kind.
    """
    if samples_bn.ndim != 2 or samples_bn.dtype != torch.float32 or lens_b.shape != samples_bn.shape[:1]:
        shapes = f"{list(samples_bn.shape)} with lengths {list(lens_b.shape)}"
        raise ValueError(f"samples: expected float32 [b, n] with lengths [b], received {samples_bn.dtype} {shapes}")
    lens_b = lens_b.to(samples_bn.device)
    frames_b = spec.num_frames(lens_b)
    num_frames = spec.num_frames(samples_bn.shape[1])
    feats_btf = samples_bn.new_zeros((len(samples_bn), num_frames, spec.mels))
    if feats_btf.numel():
        if spec.definition == "librosa":
            samples_bn = _centred(samples_bn, lens_b, spec)
        frames_bts = samples_bn.unfold(1, spec.window_samples, spec.hop_samples)  # a view: samples are not copied
        chunk = max(1, CHUNK_FRAMES // len(samples_bn))
        with torch.no_grad(), torch.autocast(samples_bn.device.type, enabled=False):
            for start in range(0, num_frames, chunk):
                feats_btf[:, start : start + chunk] = _features(frames_bts[:, start : start + chunk], spec)
    beyond_bt = torch.arange(num_frames, device=samples_bn.device) >= frames_b[:, None]
    return feats_btf.masked_fill_(beyond_bt[:, :, None], 0), frames_b


def _centred(samples_bn: Tensor, lens_b: Tensor, spec: FrontendSpec) -> Tensor:
    """Samples emphasised, and reflected at both ends of each example, so that every frame has its whole window."""
    before = spec.fft_samples // 2 - (spec.fft_samples - spec.window_samples) // 2
    emphasised_bn = torch.cat([samples_bn[:, :1], samples_bn[:, 1:] - spec.preemphasis * samples_bn[:, :-1]], 1)
    end = samples_bn.shape[1] + spec.window_samples - before
    places_bn = torch.arange(-before, end, device=samples_bn.device).abs().expand(len(samples_bn), -1)
    last_b1 = lens_b[:, None] - 1
    places_bn = torch.where(places_bn > last_b1, 2 * last_b1 - places_bn, places_bn)
    return emphasised_bn.gather(1, places_bn.clamp(min=0))  # what is clamped is behind the last frame


def _features(frames_bts: Tensor, spec: FrontendSpec) -> Tensor:
    window_s, filters_kf = _tables(spec, frames_bts.device)
    if spec.definition == "librosa":
        windowed_bts = frames_bts * window_s
    else:
        centred_bts = frames_bts - frames_bts.mean(dim=-1, keepdim=True)
        # The window is 0 at a frame's first sample, the one that has none before it. Without it all others come one
        # place earlier, which changes no power.
        emphasised_bts = torch.sub(centred_bts[..., 1:], centred_bts[..., :-1], alpha=spec.preemphasis)
        windowed_bts = emphasised_bts.mul_(window_s[1:])
    spectrum_btk = torch.fft.rfft(windowed_bts, spec.fft_samples)[..., : len(filters_kf)]
    mels_btf = torch.view_as_real(spectrum_btk).square().sum(dim=-1) @ filters_kf
    if spec.definition == "librosa":
        return mels_btf.add_(frontend.ADDED).log_()
    return mels_btf.clamp_(min=float(frontend.FLOOR)).log_()


@functools.cache
def _tables(spec: FrontendSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    """The window [s] and the filters [k, f]."""
    with torch.inference_mode(False):  # they outlive the caller's mode
        window_s = torch.tensor(frontend.window(spec), dtype=torch.float32, device=device)
        filters_kf = torch.tensor(frontend.mel_filters(spec).T, dtype=torch.float32, device=device)
    return window_s, filters_kf
