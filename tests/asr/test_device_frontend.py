"""The torch features are those of the definition, whatever the batch. On CPU; a GPU runs the same calls."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from asr import device_frontend, frontend
from asr.device_frontend import logmel
from shards.spec import FrontendSpec
from tests.asr.test_frontend import SPECS, definition, each_spec, speechlike

SPEC = FrontendSpec()


def batch(examples: list[np.ndarray], filler: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """[b, n] with `filler` after each example's end, and the lengths."""
    lens_b = torch.tensor([len(samples) for samples in examples])
    samples_bn = torch.full((len(examples), int(lens_b.max())), filler)
    for row, samples in zip(samples_bn, examples, strict=True):
        row[: len(samples)] = torch.from_numpy(samples)
    return samples_bn, lens_b


@each_spec
def test_agrees_with_the_float64_definition(spec: FrontendSpec) -> None:
    samples = speechlike(spec.window_samples + 128 * spec.hop_samples, seed=1)
    feats_btf, frames_b = logmel(*batch([samples]), spec)
    assert feats_btf.dtype == torch.float32 and frames_b.tolist() == [129]
    np.testing.assert_allclose(feats_btf[0].numpy(), definition(samples, spec), rtol=0, atol=1e-3)


def test_agrees_with_the_cpu_kernel_on_speech(speech_data: Path) -> None:
    """As closely as that does with the definition: see tests/asr/test_frontend.py."""
    paths = sorted((speech_data / "LibriSpeech").rglob("*.flac"))[::10]
    examples = [soundfile.read(path, dtype="float32")[0] for path in paths]
    feats_btf, frames_b = logmel(*batch(examples), SPEC)
    for feats_tf, frames, samples in zip(feats_btf.numpy(), frames_b.tolist(), examples, strict=True):
        error_tf = np.abs(feats_tf[:frames] - frontend.logmel(samples, SPEC))
        assert np.quantile(error_tf, 0.999) < 1e-3
        assert error_tf.max() < 1e-2


@settings(deadline=None, max_examples=30)
@given(name=st.sampled_from(sorted(SPECS)), sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=6))
def test_a_ragged_batch_gives_what_each_example_gives_alone(name: str, sizes: list[int]) -> None:
    """What follows an example's end is not even looked at: here it is not a number."""
    spec, examples = SPECS[name], [speechlike(size, seed) for seed, size in enumerate(sizes)]
    feats_btf, frames_b = logmel(*batch(examples, filler=float("nan")), spec)
    assert frames_b.tolist() == [spec.num_frames(size) for size in sizes]
    assert feats_btf.shape == (len(sizes), spec.num_frames(max(sizes)), spec.mels)
    for feats_tf, frames, samples in zip(feats_btf, frames_b.tolist(), examples, strict=True):
        assert not feats_tf[frames:].any()
        alone_tf = logmel(*batch([samples]), spec)[0][0]
        np.testing.assert_allclose(feats_tf[:frames].numpy(), alone_tf.numpy(), rtol=0, atol=1e-3)


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    samples_bn, lens_b = batch([speechlike(size, seed=size) for size in (30000, 20000, 400)])
    expected_btf, _frames_b = logmel(samples_bn, lens_b, SPEC)
    monkeypatch.setattr(device_frontend, "CHUNK_FRAMES", 64)
    feats_btf, _frames_b = logmel(samples_bn, lens_b, SPEC)
    np.testing.assert_allclose(feats_btf.numpy(), expected_btf.numpy(), rtol=0, atol=1e-3)


class Largest(TorchDispatchMode):
    """Remembers the size of the largest memory that a result lies in."""

    most_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.most_bytes = max(self.most_bytes, result.untyped_storage().nbytes())
        return result


def test_five_minutes_need_no_memory_larger_than_their_samples() -> None:
    """All their frames, 2.5 times the samples, would not fit on a GPU beside a model."""
    samples_bn, lens_b = batch([np.zeros(300 * 16000, np.float32)])
    with Largest() as largest:
        logmel(samples_bn, lens_b, SPEC)
    assert 30_000 * 80 * 4 * 0.99 < largest.most_bytes <= samples_bn.nbytes


def test_bfloat16_of_the_model_around_it_changes_nothing() -> None:
    samples_bn, lens_b = batch([speechlike(8000, seed=3)])
    expected_btf, _frames_b = logmel(samples_bn, lens_b, SPEC)
    with torch.autocast("cpu", torch.bfloat16):
        feats_btf, _frames_b = logmel(samples_bn, lens_b, SPEC)
    assert torch.equal(feats_btf, expected_btf)


def test_training_on_features_after_recognising_with_them() -> None:
    """Tables that recognition made under inference_mode must not forbid gradients later."""
    samples_bn, lens_b = batch([speechlike(8000, seed=4)])
    spec = FrontendSpec(mels=29)
    with torch.inference_mode():
        logmel(samples_bn, lens_b, spec)
    layer = torch.nn.Linear(29, 1)
    layer(logmel(samples_bn, lens_b, spec)[0]).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.any()


@pytest.mark.parametrize(
    ("samples", "lens", "received"),
    [
        (torch.zeros(800), torch.tensor([800]), r"torch.float32 \[800\]"),
        (torch.zeros(1, 800, dtype=torch.int16), torch.tensor([800]), r"torch.int16 \[1, 800\]"),
        (torch.zeros(2, 800), torch.tensor([800]), r"torch.float32 \[2, 800\] with lengths \[1\]"),
    ],
)
def test_refuses_other_tensors(samples: torch.Tensor, lens: torch.Tensor, received: str) -> None:
    with pytest.raises(ValueError, match=f"expected float32 .* with lengths .*, received {received}"):
        logmel(samples, lens, SPEC)
