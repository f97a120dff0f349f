"""The Conformer beyond the contract of all encoders: what sees what, long streams, many streams, sizes of chunks."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from asr import audio, decode, tokenizer
from asr.decode import Said
from asr.encoders import conformer
from asr.encoders.conformer import LONGEST, REDUCTION, Config, Encoder, LayerState, State
from asr.frontend import logmel
from asr.model_config import ModelConfig
from asr.models import make_model
from asr.recipe import TrainConfig
from asr.recogniser import make_encoder
from asr.tokenizer import Tokenizer
from asr.transducer import BLANK, Transducer
from configs.load import load
from shards.spec import FrontendSpec

MELS = 6
SMALL = Config(layers=2, width=16, heads=2, kernel=4, channels=3, left=5, chunk=3)
SIZES = [1, 2, 4, 8, 14, 20]


def make(config: Config = SMALL) -> Encoder:
    torch.manual_seed(1)
    return Encoder(config, MELS).eval()


def features(batch: int, frames: int, seed: int = 2) -> Tensor:
    """Of so many encoder frames."""
    return torch.randn(batch, frames * REDUCTION, MELS, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def in_steps(encoder: Encoder, feats_btf: Tensor, state: State, chunks: int = 1) -> tuple[Tensor, State]:
    out = []
    for part_btf in feats_btf.split(chunks * encoder.chunk * REDUCTION, 1):
        out_bnd, state = encoder.step(part_btf, state)
        out.append(out_bnd)
    return torch.cat(out, 1), state


@pytest.mark.parametrize(("chunk", "left"), [(1, 0), (1, 4), (3, 0), (3, 2), (4, 9)])
def test_a_layer_sees_its_chunk_and_so_many_frames_before_it(chunk: int, left: int) -> None:
    encoder = make(replace(SMALL, layers=1, kernel=1, chunk=chunk, left=left))
    frames = 15
    feats_btf = features(1, frames)
    with torch.inference_mode():
        before, _ = encoder.step(feats_btf, encoder.init_state(1))
        for key in range(frames):
            other_btf = feats_btf.clone()
            other_btf[:, key * REDUCTION] += 3  # the first of its frames, which no other encoder frame is made from
            after, _ = encoder.step(other_btf, encoder.init_state(1))
            changed = (before != after).any(2)[0].nonzero()[:, 0].tolist()
            starts = [n // chunk * chunk for n in range(frames)]
            assert changed == [n for n in range(frames) if starts[n] - left <= key < starts[n] + chunk]


def test_a_stream_that_begins_sees_nothing_before_it() -> None:
    """So its first chunk comes out alike with any left context; later ones do not."""
    feats_btf = features(1, 2 * SMALL.chunk)
    with torch.inference_mode():
        encoders = [make(replace(SMALL, left=left)) for left in (0, 5, 40)]
        short, middle, long = (encoder.step(feats_btf, encoder.init_state(1))[0] for encoder in encoders)
    torch.testing.assert_close(middle, long, rtol=0, atol=1e-6)
    torch.testing.assert_close(short[:, : SMALL.chunk], long[:, : SMALL.chunk], rtol=0, atol=1e-6)
    assert (short - long)[:, SMALL.chunk :].abs().max() > 1e-3


def test_frames_that_fill_up_a_chunk_are_not_remembered() -> None:
    encoder = make(replace(SMALL, layers=1))
    feats_btf = features(1, 4)
    _, filled = in_steps(encoder, feats_btf, encoder.init_state(1))
    encoder.chunk = 1
    _, exact = in_steps(encoder, feats_btf, encoder.init_state(1))
    assert filled.frames_b.tolist() == exact.frames_b.tolist() == [4]
    torch.testing.assert_close(filled.feats_btf, exact.feats_btf, rtol=0, atol=0)
    torch.testing.assert_close(filled.layers[0].keys_bhlk, exact.layers[0].keys_bhlk, rtol=0, atol=1e-5)
    torch.testing.assert_close(filled.layers[0].values_bhlk, exact.layers[0].values_bhlk, rtol=0, atol=1e-5)


def test_an_encoder_frame_is_made_from_its_own_features_and_seven_before() -> None:
    subsampling = make().subsampling.eval()
    feats_btf = functional.pad(features(1, 4), (0, 0, 7, 0))
    with torch.inference_mode():
        before = subsampling(feats_btf)
        assert before.shape == (1, 4, SMALL.width)
        for t in range(feats_btf.shape[1]):
            other_btf = feats_btf.clone()
            other_btf[:, t] += 3
            changed = (before != subsampling(other_btf)).any(2)[0].nonzero()[:, 0].tolist()
            assert changed == [n for n in range(4) if 8 * n <= t < 8 * n + 15]


@pytest.mark.parametrize("chunk", [3, 14])
def test_a_step_too_long_to_be_computed_together_gives_what_chunks_give(chunk: int) -> None:
    encoder = make(replace(SMALL, chunk=chunk))
    feats_btf = features(1, 2 * LONGEST + 77)
    with torch.inference_mode():
        whole, _ = encoder.step(feats_btf, encoder.init_state(1))
    chunks, _ = in_steps(encoder, feats_btf, encoder.init_state(1))
    torch.testing.assert_close(whole, chunks, rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames", [10**4, 10**7, 10**12])
def test_positions_are_as_exact_after_years_as_at_first(frames: int) -> None:
    encoder = make()
    feats_btf = features(2, 12)
    early, late = encoder.init_state(2), encoder.init_state(2)
    early.frames_b += SMALL.left
    late.frames_b += frames
    torch.testing.assert_close(
        in_steps(encoder, feats_btf, late)[0], in_steps(encoder, feats_btf, early)[0], rtol=0, atol=1e-5
    )


def test_attention_knows_the_order_of_frames() -> None:
    """When the first two change places, a later one that sees both comes out otherwise."""
    encoder = make(replace(SMALL, layers=1, kernel=1, chunk=4, left=0))
    x_bnd = torch.randn(1, 4, SMALL.width)
    layer, span = encoder.layers[0], encoder._span(4, 4, 4, torch.zeros(1, dtype=torch.long))
    state = encoder.init_state(1).layers[0]
    with torch.inference_mode():
        ours, theirs = (layer(x, state, span)[0] for x in (x_bnd, x_bnd[:, [1, 0, 2, 3]]))
    assert (ours[:, 3] - theirs[:, 3]).abs().max() > 1e-3


def joined(states: list[State]) -> State:
    """Streams of one batch from streams alone."""
    layers = [
        LayerState(*(torch.cat([getattr(x, f) for x in of]) for f in ("keys_bhlk", "values_bhlk", "conv_bnd")))
        for of in zip(*(s.layers for s in states), strict=True)
    ]
    return State(torch.cat([s.feats_btf for s in states]), torch.cat([s.frames_b for s in states]), layers)


def test_streams_that_began_at_other_times_go_on_together() -> None:
    encoder = make()
    ages = [0, 3, 12]
    states = [in_steps(encoder, features(1, age, seed=age), encoder.init_state(1))[1] for age in ages if age]
    states.insert(0, encoder.init_state(1))
    feats_btf = features(3, 9)
    together, _ = in_steps(encoder, feats_btf, joined(states))
    for b, state in enumerate(states):
        alone, _ = in_steps(encoder, feats_btf[b : b + 1], state)
        torch.testing.assert_close(together[b : b + 1], alone, rtol=0, atol=1e-5)


def test_training_draws_the_size_of_the_chunks() -> None:
    encoder = make(replace(SMALL, chunks=(1, 2, 5), dropout=0.0))
    feats_btf = features(2, 10)
    each = {}
    for chunk in (1, 2, 5):
        encoder.chunk = chunk
        each[chunk], _ = encoder.step(feats_btf, encoder.init_state(2))
    assert not any(torch.allclose(a, b, atol=1e-3) for a, b in pairwise([*each.values(), each[1]]))
    encoder.train()
    drawn = []
    for seed in [*range(30), *range(30)]:
        torch.manual_seed(seed)
        out, _ = encoder.step(feats_btf, encoder.init_state(2))
        drawn += [chunk for chunk, expected in each.items() if torch.equal(out, expected)]
    assert len(drawn) == 60 and set(drawn) == {1, 2, 5}
    assert drawn[:30] == drawn[30:]  # by the seed alone, so that a resumed run repeats it


def test_bfloat16_is_near_float32() -> None:
    model = Transducer(ModelConfig("conformer", small_options()), MELS, vocab=9).eval()
    batch = (features(2, 8), torch.tensor([64, 40]), torch.randint(1, 9, (2, 5)), torch.tensor([5, 2]))
    exact, rounded = (model(*batch, precision=p) for p in ("fp32", "bf16"))
    assert rounded.main.item() == pytest.approx(exact.main.item(), rel=0.02)
    assert rounded.main != exact.main


def small_options() -> dict[str, Any]:
    return {"layers": 2, "width": 16, "heads": 2, "kernel": 4, "channels": 3, "left": 5}


def streamed(model: Transducer, feats_tf: Tensor) -> list[Said]:
    """Tokens of an utterance of raw features whose chunks come one after another."""
    closing = model.closing_frames(len(feats_tf))
    feats_btf = functional.pad(model.normalise(feats_tf[None]), (0, 0, 0, closing))
    encoder, decoder = model.encoder.init_state(1), decode.init_state(model, 1)
    tokens: list[Said] = []
    with torch.inference_mode():
        for part_btf in feats_btf.split(model.encoder.chunk * REDUCTION, 1):
            enc_bte, encoder = model.encoder.step(part_btf, encoder)
            (new,), decoder = decode.greedy_step(model, enc_bte, torch.tensor([enc_bte.shape[1]]), decoder)
            tokens += new
    return tokens


@pytest.mark.parametrize("predictor", ["lstm", "stateless"])
def test_streams_say_what_whole_utterances_of_a_batch_say_at_every_size_of_chunks(predictor: str) -> None:
    torch.manual_seed(5)
    config = ModelConfig("conformer", small_options(), predictor=predictor, tail_frames=2)
    model = Transducer(config, MELS, vocab=20).eval()
    model.set_normalisation(torch.full((MELS,), 0.2), torch.full((MELS,), 1.5))
    with torch.no_grad():  # a random model else says the same all the time
        for layer, factor in ((model.enc_joint, 8), (model.pred_joint, 30), (model.output, 8)):
            layer.weight.mul_(factor)
        for parameter in model.predictor.lstm.parameters() if predictor == "lstm" else []:
            parameter.mul_(3)
        model.output.bias[BLANK] += 9
    lens = [171, 160, 9]
    feats_btf = features(3, 22)[:, : max(lens)]
    said = []
    for size in SIZES:
        model.encoder.chunk = size
        whole = decode.greedy(model, feats_btf, torch.tensor(lens))
        assert whole == [streamed(model, feats_btf[b, :frames]) for b, frames in enumerate(lens)]
        said.append([token for tokens in whole for token, _ in tokens])
    assert all(len(set(ids)) > 3 for ids in said) and len(set(map(tuple, said))) > 1  # else nothing was compared


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "sizes and chunks must be 1 or more"),
        ({"chunks": []}, "sizes and chunks must be 1 or more"),
        ({"chunks": [4, 0]}, "sizes and chunks must be 1 or more"),
        ({"left": -1}, "left 0 or more"),
        ({"dropout": 1.0}, "dropout from 0 to below 1"),
        ({"width": 100, "heads": 8}, "width 100 does not divide into 8 heads of even width; 96 does"),
        ({"width": 0}, "width 0 does not divide into 4 heads of even width; 8 does"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"conformer encoder: .*{message}"):
        make_encoder("conformer", options, MELS)


@pytest.mark.parametrize(
    ("name", "millions"), [("conformer-s", 13), ("conformer-m", 50), ("conformer-l", 107), ("ctc-conformer", 28)]
)
def test_the_configs_make_models_of_their_sizes(name: str, millions: int) -> None:
    config = load(TrainConfig, name, "train").model
    with torch.device("meta"):
        model = make_model(config, mels=80, vocab=1024)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions
    assert isinstance(model.encoder, conformer.Encoder) and model.encoder_frames(800) == 100 + config.tail_frames


def utterances(folder: Path, count: int) -> list[tuple[Tensor, str]]:
    """Log-mel features and words of the shortest utterances of LibriSpeech's test-other."""
    lines = [line for file in folder.rglob("*.trans.txt") for line in file.read_text().splitlines()]
    texts = {name: text.lower() for name, text in (line.split(" ", 1) for line in lines)}
    found = [
        (torch.from_numpy(logmel(audio.read(str(file), 16000), FrontendSpec())), texts[file.stem])
        for file in sorted(folder.rglob("*.flac"))
    ]
    return sorted(found, key=lambda pair: len(pair[0]))[:count]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_learns_a_handful_of_real_utterances_for_chunks_of_every_size(speech_data: Path) -> None:
    chosen = utterances(speech_data / "LibriSpeech" / "test-other", 8)
    feats, texts = [feats_tf for feats_tf, _ in chosen], [text for _, text in chosen]
    size = tokenizer.smallest_size(texts, byte_fallback=False) + 20
    vocab = Tokenizer(tokenizer.train(texts, "bpe", size, byte_fallback=False))
    options = {"layers": 6, "width": 144, "heads": 4, "dropout": 0.0}
    config = ModelConfig("conformer", options, predictor="stateless", joint=192, tail_frames=3)
    model = Transducer(config, 80, vocab.size)
    model.set_normalisation(torch.cat(feats).mean(0), torch.cat(feats).var(0))
    targets = [vocab.encode(text) for text in texts]
    _overfit(model, feats, targets)
    for chunk in SIZES[:-1]:
        model.encoder.chunk = chunk
        whole = decode.greedy(model, pad_sequence(feats, batch_first=True), torch.tensor([len(f) for f in feats]))
        assert whole == [streamed(model, feats_tf) for feats_tf in feats]
        said = [vocab.decode([token for token, _ in tokens]) for tokens in whole]
        assert sum(a == b for a, b in zip(said, texts, strict=True)) >= 6, said
        with torch.inference_mode():
            losses = model(*_batch([model.normalise(feats_tf) for feats_tf in feats], targets))
        assert losses.main < 0.2 and losses.ctc < 0.2  # nats for each utterance, at first 90


def _batch(feats: list[Tensor], targets: list[list[int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    lens, target_lens = (torch.tensor([len(x) for x in of]) for of in (feats, targets))
    targets_bu = pad_sequence([torch.tensor(ids) for ids in targets], batch_first=True)
    return pad_sequence(feats, batch_first=True), lens, targets_bu, target_lens


def _overfit(model: Transducer, feats: list[Tensor], targets: list[list[int]], steps: int = 200) -> None:
    batch = _batch([model.normalise(feats_tf) for feats_tf in feats], targets)
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1.5e-3, total_steps=steps, pct_start=0.12)
    model.train()
    for _ in range(steps):
        losses = model(*batch)
        optimiser.zero_grad()
        (losses.main + losses.ctc).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        schedule.step()
    model.eval()
