"""CTC: the loss is the sum over all paths, best path decoding streams, and the commands take its models."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import make_inputs
from streams import LENS, recognise, walks
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr import checkpoint, decode, evaluate, train, transcribe
from asr.checkpoint import Bundle
from asr.ctc import Ctc, ctc_loss, frames_needed
from asr.decode import Said
from asr.endpoint import EndpointRules
from asr.frontend import logmel
from asr.model_config import LossConfig, ModelConfig, check_together
from asr.models import make_model
from asr.tokenizer import BLANK, Tokenizer
from asr.transducer import Transducer

LSTM: dict[str, Any] = {"layers": 2, "hidden": 16, "projection": 12, "stack": 3, "reduce_after": [1]}
CONFORMER: dict[str, Any] = {"layers": 2, "width": 16, "heads": 2, "channels": 3, "left": 5}


def collapsed(path: tuple[int, ...]) -> list[int]:
    """Repeats become one, then blanks go."""
    return [symbol for symbol, _ in itertools.groupby(path) if symbol != BLANK]


def enumerated(logits_tv: Tensor, targets: list[int]) -> Tensor:
    """The loss by writing down every path, infinite without one."""
    logp_tv = logits_tv.double().log_softmax(1)
    paths = [p for p in itertools.product(range(logp_tv.shape[1]), repeat=len(logp_tv)) if collapsed(p) == targets]
    sums = [sum(logp_tv[t, symbol] for t, symbol in enumerate(path)) for path in paths]
    return -torch.stack(sums).logsumexp(0) if sums else logp_tv.new_tensor(torch.inf)


def padded(targets: list[list[int]]) -> tuple[Tensor, Tensor]:
    """With a repeat behind each end, as a padding that is counted would be."""
    longest = max(len(ids) for ids in targets)
    rows = [ids + (ids[-1:] or [1]) * (longest - len(ids)) for ids in targets]
    return torch.tensor(rows, dtype=torch.long), torch.tensor([len(ids) for ids in targets])


@pytest.mark.parametrize(
    ("lens", "targets"),
    [
        ([5], [[1, 2]]),
        ([5, 3, 4, 1], [[2, 2, 1], [1], [], [2]]),
        ([3, 2], [[1, 1], [2, 1]]),  # just enough frames
        ([4, 2], [[], []]),
    ],
)
def test_the_loss_is_that_of_all_paths(lens: list[int], targets: list[list[int]]) -> None:
    logits_btv = (2 * torch.randn(len(lens), max(lens), 3, dtype=torch.float64)).requires_grad_()
    ours = ctc_loss(logits_btv, *(padded(targets)[0], torch.tensor(lens), padded(targets)[1]))
    theirs = torch.stack([enumerated(logits_btv[b, :t], targets[b]) for b, t in enumerate(lens)]).mean()
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    (d_ours,), (d_theirs,) = (torch.autograd.grad(loss, logits_btv) for loss in (ours, theirs))
    torch.testing.assert_close(d_ours, d_theirs, rtol=1e-8, atol=1e-10)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 2), max_size=3), min_size=1, max_size=4))
def test_frames_needed_are_those_of_the_shortest_path(targets: list[list[int]]) -> None:
    for ids, needed in zip(targets, frames_needed(*padded(targets)).tolist(), strict=True):
        lengths = [t for t in range(7) if any(collapsed(p) == ids for p in itertools.product(range(3), repeat=t))]
        assert needed == lengths[0]


def test_an_utterance_without_a_path_neither_counts_nor_teaches() -> None:
    """Two equal tokens in two frames: with a loss of 0 it would halve the mean."""
    logits_btv = torch.randn(3, 4, 5, requires_grad=True)
    lens_b, targets = torch.tensor([4, 2, 3]), [[1, 2], [3, 3], [4]]
    targets_bu, target_lens_b = padded(targets)
    ours = ctc_loss(logits_btv, targets_bu, lens_b, target_lens_b)
    others = torch.tensor([0, 2])
    theirs = ctc_loss(logits_btv[others], targets_bu[others], lens_b[others], target_lens_b[others])
    torch.testing.assert_close(ours, theirs)
    (d_btv,) = torch.autograd.grad(ours, logits_btv)
    assert d_btv.isfinite().all() and not d_btv[1].any() and d_btv[0].any()
    alone = ctc_loss(logits_btv[1:2], targets_bu[1:2], lens_b[1:2], target_lens_b[1:2])
    assert alone == 0 and not torch.autograd.grad(alone, logits_btv)[0].any()


def make(
    encoder: str = "lstm", options: dict[str, Any] = LSTM, mels: int = 8, size: int = 12, tail_frames: int = 0
) -> Ctc:
    """A random model that says several symbols, some over several frames, and blanks in between."""
    torch.manual_seed(4)
    model = make_model(ModelConfig(encoder, options, kind="ctc", tail_frames=tail_frames), mels, size)
    assert isinstance(model, Ctc)
    with torch.no_grad():
        model.output.weight.mul_(30)
        model.output.bias[BLANK] += 2
    return model.eval()


@pytest.fixture(scope="module")
def model() -> Ctc:
    return make()


@pytest.fixture(scope="module")
def feats_btf() -> Tensor:
    return walks()


def test_tokens_are_those_of_the_best_path(model: Ctc, feats_btf: Tensor) -> None:
    """Each at the first frame that says it; in a batch as alone."""
    found = decode.greedy(model, feats_btf, torch.tensor(LENS))
    said: list[int] = []
    with torch.inference_mode():
        for b, frames in enumerate(LENS):
            enc_bte, _ = model.encode(model.normalise(feats_btf[b : b + 1, :frames]), torch.tensor([frames]))
            path = model.output(enc_bte[0]).argmax(1).tolist()
            starts = [t for t in range(len(path)) if path[t] != BLANK and (not t or path[t] != path[t - 1])]
            assert found[b] == [(path[t], t) for t in starts]
            assert [token for token, _ in found[b]] == collapsed(tuple(path))
            said += path
    tokens = sum(len(tokens) for tokens in found)
    assert len(set(said)) > 4 and BLANK in said  # else the other tests here compare nothing
    assert 8 < tokens < sum(symbol != BLANK for symbol in said)  # some last longer than a frame


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 6), max_size=10))
def test_chunks_equal_the_whole(model: Ctc, feats_btf: Tensor, sizes: list[int]) -> None:
    """Wherever a symbol is cut in two, and though one stream of the two ends before the other."""
    with torch.inference_mode():
        enc_bte, lens_b = model.encode(model.normalise(feats_btf[[0, 2]]), torch.tensor([61, 90]))
    whole, after = decode.greedy_step(model, enc_bte, lens_b, decode.init_state(model, 2))
    tokens: list[list[Said]] = [[], []]
    state, at = decode.init_state(model, 2), 0
    for size in [*sizes, enc_bte.shape[1]]:
        new, state = decode.greedy_step(model, enc_bte[:, at : at + size], (lens_b - at).clamp(0), state)
        tokens = [old + more for old, more in zip(tokens, new, strict=True)]
        at += size
    assert tokens == whole
    assert isinstance(state, decode.CtcState) and isinstance(after, decode.CtcState)
    assert state.frames == after.frames == enc_bte.shape[1] and torch.equal(state.last_b, after.last_b)
    assert state.last_b.untyped_storage().nbytes() == 2 * 8  # and not what it was taken from


def test_a_model_that_only_says_blank_says_nothing(model: Ctc) -> None:
    silent = make()
    with torch.no_grad():
        silent.output.bias[BLANK] += 1e4
    assert decode.greedy(silent, torch.randn(2, 20, 8), torch.tensor([20, 9])) == [[], []]


@pytest.fixture(scope="module", params=["lstm", 1, 3, 14, 56])
def ctc_bundle(request: pytest.FixtureRequest, bundle: Bundle) -> Bundle:
    """Of an LSTM, or of a Conformer whose chunks have so many encoder frames."""
    spec, size = bundle.spec, bundle.tokenizer.size
    if request.param == "lstm":
        model = make(mels=spec.mels, size=size, tail_frames=2)
    else:
        model = make("conformer", CONFORMER | {"chunk": request.param}, spec.mels, size, tail_frames=2)
    model.set_normalisation(bundle.model.mean_f, bundle.model.scale_f**-2)
    return dataclasses.replace(bundle, model=model)


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(0, 5000), max_size=14), samples=st.integers(9000, 32000))
def test_a_stream_says_what_the_whole_file_says(
    ctc_bundle: Bundle, hum: np.ndarray, sizes: list[int], samples: int
) -> None:
    feats_btf = torch.from_numpy(logmel(hum[:samples], ctc_bundle.spec)[None])
    (tokens,) = decode.greedy(ctc_bundle.model, feats_btf, torch.tensor([feats_btf.shape[1]]))
    words = recognise(ctc_bundle, np.split(hum[:samples], np.cumsum(sizes).clip(max=samples)))
    said = " ".join(word.text for word in words).split()
    assert said == ctc_bundle.tokenizer.decode([token for token, _ in tokens]).split()
    frame_s = ctc_bundle.model.encoder.reduction * ctc_bundle.spec.frame_s
    assert {round(word.end_s / frame_s) for word in words} <= {frame + 1 for _, frame in tokens}
    assert samples < 30000 or len({token for token, _ in tokens}) > 3


def test_a_bundle_of_it_is_read_as_what_it_is(
    ctc_bundle: Bundle, hum: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(str(tmp_path / "last"), ctc_bundle)
    back = checkpoint.load(str(tmp_path / "last"))
    assert isinstance(back.model, Ctc) and back.model.config == ctc_bundle.model.config
    words = recognise(back, [hum], EndpointRules())
    assert words == recognise(ctc_bundle, [hum], EndpointRules()) != []
    soundfile.write(tmp_path / "hum.wav", hum, 16000, subtype="FLOAT")
    for chunk_ms in ("80", "0"):
        command = [f"{tmp_path}/hum.wav", "--bundle", f"{tmp_path}/last", "--chunk-ms", chunk_ms]
        assert transcribe.main(command) == 0
        assert capsys.readouterr().out.split() == " ".join(word.text for word in words).split()
    facts = json.loads((tmp_path / "last" / "bundle.json").read_text())
    facts["model"] |= {"kind": "transducer"}
    (tmp_path / "last" / "bundle.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="does not fit the model"):
        checkpoint.load(str(tmp_path / "last"))


def test_a_bundle_that_says_no_kind_is_a_transducer(bundle: Bundle, tmp_path: Path) -> None:
    """As all were before there were two."""
    checkpoint.save(str(tmp_path / "last"), bundle)
    facts = json.loads((tmp_path / "last" / "bundle.json").read_text())
    del facts["model"]["kind"], facts["model"]["prune"]
    (tmp_path / "last" / "bundle.json").write_text(json.dumps(facts))
    assert isinstance(checkpoint.load(str(tmp_path / "last")).model, Transducer)


def test_losses_are_those_of_its_own_logits_and_every_parameter_learns(model: Ctc, feats_btf: Tensor) -> None:
    lens_b, targets_bu, target_lens_b = (
        torch.tensor([61, 42]),
        torch.tensor([[3, 3, 5], [7, 1, 1]]),
        torch.tensor([3, 1]),
    )
    batch_btf = feats_btf[[0, 4], :61].clone()
    batch_btf[1, 42:] = 0
    model = make()
    losses = model(batch_btf, lens_b, targets_bu, target_lens_b)
    enc_bte, enc_lens_b = model.encode(batch_btf, lens_b)
    assert losses.total is losses.main and losses.ctc == 0
    expected = ctc_loss(model.output(enc_bte), targets_bu, enc_lens_b, target_lens_b)
    torch.testing.assert_close(losses.main, expected)
    losses.total.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    rounded = model(batch_btf, lens_b, targets_bu, target_lens_b, precision="bf16")
    assert rounded.main != losses.main
    torch.testing.assert_close(rounded.main, losses.main, rtol=0.02, atol=0)


@pytest.mark.parametrize(("encoder", "options"), [("lstm", LSTM), ("conformer", CONFORMER | {"dropout": 0.0})])
def test_it_learns_a_few_utterances_by_heart(encoder: str, options: dict[str, Any]) -> None:
    """Tones that change, with one that comes twice in a row; then it says them, whole and in chunks."""
    targets = [[1, 2, 2, 3], [3, 1], [4, 4, 1, 2], [2]]
    draw = torch.Generator().manual_seed(3)
    tones = torch.randn(5, 8, generator=draw)
    feats = [torch.cat([(tones[id_] * torch.tensor([[1.0], [0.1]]).repeat_interleave(12, 0)) for id_ in ids])
             for ids in targets]  # fmt: skip
    torch.manual_seed(1)
    model = make_model(ModelConfig(encoder, options, kind="ctc", tail_frames=1), 8, 5)
    lens_b, target_lens_b = (torch.tensor([len(x) for x in of]) for of in (feats, targets))
    targets_bu = pad_sequence([torch.tensor(ids) for ids in targets], batch_first=True)
    feats_btf = pad_sequence(feats, batch_first=True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.02 if encoder == "lstm" else 0.01)
    for _ in range(150):
        losses = model(feats_btf, lens_b, targets_bu, target_lens_b)
        if losses.main < 0.1:
            break
        optimiser.zero_grad()
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
    found = decode.greedy(model.eval(), feats_btf, lens_b)
    assert [[token for token, _ in tokens] for tokens in found] == targets


def test_options_that_only_a_transducer_knows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.prune is 5, but a model of kind ctc has no joint"):
        ModelConfig(kind="ctc", prune=5)
    for name in ("fastemit", "delay_penalty"):
        with pytest.raises(ValueError, match=rf"loss\.{name} is 0\.1, .* kind ctc; leave it out"):
            check_together(ModelConfig(kind="ctc"), LossConfig(**{name: 0.1}))
        check_together(ModelConfig(), LossConfig(**{name: 0.1}))
    check_together(ModelConfig(kind="ctc"), LossConfig())


def test_the_same_commands_train_and_measure_it(
    vocab: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_inputs(tmp_path, vocab)
    command = ["--config", f"{tmp_path}/config.yaml", "--shards", f"{tmp_path}/s", "--dev-shards", f"{tmp_path}/s",
               "--vocab", f"{tmp_path}/vocab.model", "--out", f"{tmp_path}/run", "model.kind=ctc"]  # fmt: skip
    assert train.main(command) == 0
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [r for r in records if "loss" in r]
    assert losses and all(r["loss"] > 0 and r["ctc"] == 0 for r in losses)
    assert isinstance(checkpoint.load(f"{tmp_path}/run/best").model, Ctc)
    capsys.readouterr()
    assert evaluate.main(["--bundle", f"{tmp_path}/run/best", "--shards", f"{tmp_path}/s", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["wer"]["rate"] > 0
