"""The contract of every module in asr/encoders: chunks equal the whole, the future never changes the past, states
keep their shapes, lengths are exact, and every parameter learns."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from asr.model_config import ModelConfig
from asr.models import make_model
from asr.recogniser import Encoder, Precision, autocast, chunk_of, encoder_names, make_encoder

MELS = 7
LSTM = [
    {"layers": 3, "hidden": 10, "projection": 6, "cell": cell, "stack": stack, "reduce_after": reduce_after}
    for cell, (stack, reduce_after) in itertools.product(
        ["lstm", "gru"], [(1, []), (3, []), (1, [1]), (2, [3]), (3, [1, 2]), (2, [1, 2, 3])]
    )
] + [
    {"layers": 2, "hidden": 10, "stack": 4, "convolutions": [2, 3], "kernel_mels": 3, "reduce_after": [1]},
    {"layers": 3, "hidden": 10, "stack": 2, "convolutions": [16], "reduce_after": [], "cell": "gru"},
]
CONFORMER = [
    {"layers": 3, "width": 8, "heads": heads, "kernel": kernel, "channels": 3, "left": left, "chunk": chunk}
    for chunk, left, kernel, heads in [(3, 4, 3, 2), (1, 3, 2, 1), (2, 0, 3, 2), (4, 2, 1, 4), (14, 20, 9, 2)]
]
# an encoder that is not named here is tested as it comes
SMALL: dict[str, list[dict[str, Any]]] = {"lstm": LSTM, "conformer": CONFORMER}
CASES = [(name, options) for name in encoder_names() for options in SMALL.get(name, [{}])]
HOUR_FRAMES = 360_000


def make(name: str, options: dict[str, Any], chunk: int | None = None) -> Encoder:
    torch.manual_seed(1)
    encoder = make_encoder(name, options, MELS)
    assert isinstance(encoder, nn.Module)
    if chunk is not None and hasattr(encoder, "chunk"):
        encoder.chunk = chunk
    return encoder.eval()


def chunk_sizes(name: str, options: dict[str, Any]) -> list[int]:
    """Encoder frames in a chunk: as the options have it, and every number that training draws."""
    encoder = make(name, options)
    return sorted({chunk_of(encoder), *getattr(getattr(encoder, "config", None), "chunks", ())})


every_encoder = pytest.mark.parametrize(
    ("name", "options"), CASES, ids=[f"{name}-{'-'.join(str(v) for v in options.values())}" for name, options in CASES]
)
CHUNKS = [(name, options, chunk) for name, options in CASES for chunk in chunk_sizes(name, options)]
every_chunk = pytest.mark.parametrize(
    ("name", "options", "chunk"),
    CHUNKS,
    ids=[f"{name}-{'-'.join(str(v) for v in options.values())}-{chunk}" for name, options, chunk in CHUNKS],
)


def features(batch: int, frames: int, seed: int = 2) -> Tensor:
    return torch.randn(batch, frames, MELS, generator=torch.Generator().manual_seed(seed))


def tensors(state: Any) -> Iterator[Tensor]:
    """Every tensor in a state."""
    if isinstance(state, Tensor):
        yield state
    elif dataclasses.is_dataclass(state):
        yield from tensors([getattr(state, f.name) for f in dataclasses.fields(state)])
    elif isinstance(state, list | tuple):
        for part in state:
            yield from tensors(part)


def chunk_frames(encoder: Encoder) -> int:
    """Feature frames of which a step takes a multiple."""
    return encoder.reduction * chunk_of(encoder)


def in_chunks(encoder: Encoder, feats_btf: Tensor, sizes: list[int]) -> Tensor:
    """Encoder frames, `sizes` chunks of them in each step and what is left in a last one."""
    state = encoder.init_state(len(feats_btf))
    out, at = [], 0
    for size in [*sizes, feats_btf.shape[1]]:
        chunk_btf = feats_btf[:, at : at + size * chunk_frames(encoder)]
        if chunk_btf.shape[1]:
            enc_bte, state = encoder.step(chunk_btf, state)
            out.append(enc_bte)
        at += size * chunk_frames(encoder)
    return torch.cat(out, 1)


def test_there_are_encoders() -> None:
    assert "lstm" in encoder_names()
    with pytest.raises(ValueError, match=r"model\.encoder is 'lstn'; there are .*lstm"):
        make_encoder("lstn", {}, MELS)


@every_chunk
@settings(max_examples=12, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), max_size=8), rest=st.integers(0, 3))
def test_chunks_equal_the_whole(name: str, options: dict[str, Any], chunk: int, sizes: list[int], rest: int) -> None:
    """Also when the last chunk is not full."""
    encoder = make(name, options, chunk)
    feats_btf = features(2, 12 * chunk_frames(encoder) + rest * encoder.reduction)
    with torch.inference_mode():
        whole, _ = encoder.step(feats_btf, encoder.init_state(2))
        torch.testing.assert_close(in_chunks(encoder, feats_btf, sizes), whole, rtol=0, atol=1e-5)


@every_chunk
def test_the_future_never_changes_the_past(name: str, options: dict[str, Any], chunk: int) -> None:
    encoder = make(name, options, chunk)
    feats_btf = features(2, 8 * chunk_frames(encoder))
    other_btf = feats_btf.clone()
    other_btf[:, 5 * chunk_frames(encoder) :] = 9.0
    with torch.inference_mode():
        ours, theirs = (encoder.step(x, encoder.init_state(2))[0] for x in (feats_btf, other_btf))
    assert torch.equal(ours[:, : 5 * chunk], theirs[:, : 5 * chunk])
    assert not torch.equal(ours[:, 5 * chunk], theirs[:, 5 * chunk])


@every_chunk
def test_lengths_are_rounded_up(name: str, options: dict[str, Any], chunk: int) -> None:
    model = make_model(ModelConfig(name, options, kind="ctc"), MELS, vocab=4).eval()
    model.encoder = make(name, options, chunk)
    reduction = model.encoder.reduction
    for frames in range(1, 2 * reduction + 2):
        enc_bte, lens_b = model.encode(features(1, frames), torch.tensor([frames]))
        expected = -(-frames // reduction)
        assert enc_bte.shape == (1, expected, model.encoder.output_size)
        assert lens_b.tolist() == [expected]


@every_chunk
def test_padding_of_a_batch_changes_nothing(name: str, options: dict[str, Any], chunk: int) -> None:
    model = make_model(ModelConfig(name, options, kind="ctc"), MELS, vocab=4).eval()
    model.encoder = make(name, options, chunk)
    lens = [2 * model.encoder.reduction + 1, 5 * model.encoder.reduction, 1]
    feats_btf = features(3, max(lens))
    for b, frames in enumerate(lens):
        feats_btf[b, frames:] = 0
    with torch.inference_mode():
        together, enc_lens_b = model.encode(feats_btf, torch.tensor(lens))
        for b, frames in enumerate(lens):
            alone, _ = model.encode(feats_btf[b : b + 1, :frames], torch.tensor([frames]))
            torch.testing.assert_close(together[b, : enc_lens_b[b]], alone[0], rtol=0, atol=1e-5)


@every_chunk
def test_states_keep_their_shapes(name: str, options: dict[str, Any], chunk: int) -> None:
    encoder = make(name, options, chunk)
    state = encoder.init_state(3)
    shapes = [t.shape for t in tensors(state)]
    assert shapes
    for size in (1, 4, 2, 16):
        _, state = encoder.step(features(3, size * encoder.reduction), state)
        assert [t.shape for t in tensors(state)] == shapes


@every_encoder
def test_a_step_leaves_its_state_as_it_was(name: str, options: dict[str, Any]) -> None:
    """So a caller may look ahead and come back."""
    encoder = make(name, options)
    feats_btf = features(2, 2 * chunk_frames(encoder))
    with torch.inference_mode():
        _, state = encoder.step(feats_btf, encoder.init_state(2))
        first, _ = encoder.step(feats_btf, state)
        second, _ = encoder.step(feats_btf, state)
    assert torch.equal(first, second)


HOURS = [(name, chunk) for name in encoder_names() for chunk in chunk_sizes(name, SMALL.get(name, [{}])[0])]


@pytest.mark.parametrize(("name", "chunk"), HOURS)
def test_after_an_hour_a_state_is_as_large_as_at_first(name: str, chunk: int) -> None:
    """The memory that its tensors keep alive, a view the whole of its base."""
    encoder = make(name, SMALL.get(name, [{}])[0], chunk)
    step_btf = features(1, 4000 // chunk_frames(encoder) * chunk_frames(encoder))
    state, bytes_ = encoder.init_state(1), []
    with torch.inference_mode():
        for _ in range(-(-HOUR_FRAMES // step_btf.shape[1])):
            out_bte, state = encoder.step(step_btf, state)
            bytes_.append(sum(t.untyped_storage().nbytes() for t in tensors(state)))
    assert set(bytes_) == {bytes_[0]}
    assert bytes_[0] < step_btf.nbytes and out_bte.isfinite().all()


@every_encoder
def test_every_parameter_has_a_gradient(name: str, options: dict[str, Any]) -> None:
    encoder = make(name, options)
    assert isinstance(encoder, nn.Module)
    out_bte, _ = encoder.step(features(2, 4 * encoder.reduction), encoder.init_state(2))
    (out_bte * torch.randn(out_bte.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


@every_encoder
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_layers_computed_again_change_no_bit(name: str, options: dict[str, Any], precision: Precision) -> None:
    """Nor do dropout and the chunk that training draws; and less is kept for the backward pass."""
    encoder = make(name, options)
    assert isinstance(encoder, nn.Module)
    if not hasattr(encoder, "checkpointing"):
        pytest.skip(f"{name} does not offer it")
    for module in encoder.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    feats_btf = features(2, 6 * encoder.reduction)
    found, kept_bytes = [], []
    for encoder.checkpointing in (False, True):
        torch.manual_seed(4)
        kept: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, to=kept: to.append(x) or x, lambda x: x):
            with autocast(feats_btf.device, precision):
                out_bte, state = encoder.step(feats_btf, encoder.init_state(2))
        loss = out_bte.float().square().sum() + sum(x.float().sum() for x in tensors(state) if x.is_floating_point())
        found.append([out_bte, *torch.autograd.grad(loss, list(encoder.parameters()))])
        kept_bytes.append(sum(x.nbytes for x in kept))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))
    assert kept_bytes[1] < kept_bytes[0] / 4
    encoder.eval()
    assert torch.equal(
        encoder.step(feats_btf, encoder.init_state(2))[0], make(name, options).step(feats_btf, encoder.init_state(2))[0]
    )


@every_encoder
def test_frames_that_do_not_fill_an_encoder_frame_are_our_own_mistake(name: str, options: dict[str, Any]) -> None:
    encoder = make(name, options)
    if encoder.reduction > 1:
        with pytest.raises(AssertionError, match="not a multiple"):
            encoder.step(features(1, encoder.reduction + 1), encoder.init_state(1))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        *((wrong, "reduce_after .* do not fit") for wrong in ({"layers": 0}, {"stack": 0}, {"reduce_after": [0]})),
        ({"reduce_after": [5]}, "reduce_after .* do not fit"),
        ({"stack": 4, "convolutions": [8, 0]}, "1 channel or more"),
        ({"stack": 4, "convolutions": [8, 8], "kernel_mels": 4}, "kernel_mels 4 be odd"),
        ({"convolutions": [8, 8]}, "stack must be 4 for 2 of them, not 3"),
    ],
)
def test_lstm_options_that_do_not_fit_are_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=f"lstm encoder: .*{why}"):
        make_encoder("lstm", options, MELS)
