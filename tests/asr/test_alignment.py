"""Posteriors of alignments against the enumeration of all paths, and whether a picture shows them where they are."""

import io
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toys import TEXTS, Toy, row_features, write_toys

from asr.corpus import Corpus
from asr.ctc import Ctc
from asr.model_config import ModelConfig
from asr.tokenizer import BLANK, Tokenizer
from asr.training import alignment
from asr.transducer import Transducer
from shards.index import open_shards
from shards.spec import FrontendSpec

MakeModel = Callable[..., Transducer]
CPU = torch.device("cpu")


def inputs(frames: int, tokens: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of an utterance of so many frames of a random model's encoder."""
    feats_btf = torch.randn(1, 6 * frames, 8, dtype=torch.float64)
    return feats_btf, torch.tensor([6 * frames]), torch.tensor([tokens], dtype=torch.long), torch.tensor([len(tokens)])


def enumerated(model: Transducer, feats_btf: torch.Tensor, tokens: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [t, u + 1] that a path leaves a point by blank and by its token, path by path.

    Of the model only what recognition uses: a predictor that is told a token after the other.
    """
    enc_btj = model.enc_joint(model.encode(feats_btf, torch.tensor([feats_btf.shape[1]]))[0])
    num_t, num_u = enc_btj.shape[1], len(tokens)
    state, logp_utv = model.start(1), []
    for token in [*tokens, BLANK]:
        logp_utv.append([model.logits(enc_btj[:, t], state)[0].log_softmax(-1) for t in range(num_t)])
        state = model.advance(torch.tensor([token]), state, torch.tensor([True]))
    blank_tu, token_tu = np.zeros((2, num_t, num_u + 1))
    for places in itertools.combinations(range(num_t - 1 + num_u), num_u):  # of the tokens; the last move is a blank
        t = u = 0
        logp, visited = 0.0, []
        for move in range(num_t + num_u):
            emits = move in places
            logp += float(logp_utv[u][t][tokens[u] if emits else BLANK])
            visited.append((token_tu if emits else blank_tu, t, u))
            t, u = (t, u + 1) if emits else (t + 1, u)
        for sums_tu, t, u in visited:
            sums_tu[t, u] += np.exp(logp)
    total = blank_tu[-1, -1]
    return blank_tu / total, token_tu / total


@pytest.mark.parametrize(("frames", "tokens"), [(1, []), (3, []), (1, [3, 3]), (4, [2]), (3, [5, 1, 5]), (6, [7, 2])])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_transducers_posterior_is_that_of_all_paths(
    make_model: MakeModel, frames: int, tokens: list[int], seed: int
) -> None:
    model = make_model(seed=seed).double()
    batch = inputs(frames, tokens)
    with torch.no_grad():
        expected = enumerated(model, batch[0], tokens)
    for ours, theirs in zip(alignment.leaving(model, *batch), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
    np.testing.assert_allclose(alignment.posterior(model, *batch), sum(expected), rtol=0, atol=1e-9)


def test_each_frame_is_left_by_one_blank_and_each_token_comes_once(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in float32, and whatever part of the logits is computed at a time."""
    batch = [x.float() if x.is_floating_point() else x for x in inputs(70, [1 + i % 11 for i in range(25)])]
    blank_tu, token_tu = alignment.leaving(make_model(), *batch)
    np.testing.assert_allclose(blank_tu.sum(1), np.ones(70), rtol=0, atol=1e-9)
    np.testing.assert_allclose(token_tu.sum(0), [*np.ones(25), 0], rtol=0, atol=1e-9)
    monkeypatch.setattr(alignment, "CHUNK_LOGITS", 1)
    np.testing.assert_allclose(alignment.posterior(make_model(), *batch), blank_tu + token_tu, rtol=0, atol=1e-4)


@settings(deadline=None, max_examples=60)
@given(frames=st.integers(1, 5), tokens=st.lists(st.integers(1, 2), max_size=3), seed=st.integers(0, 99))
def test_a_ctc_posterior_is_that_of_all_symbol_sequences(frames: int, tokens: list[int], seed: int) -> None:
    logp_tv = torch.randn(frames, 3, generator=torch.Generator().manual_seed(seed)).double().mul(3).log_softmax(-1)
    expected_ts = np.zeros((frames, 2 * len(tokens) + 1))
    for symbols in itertools.product(range(3), repeat=frames):
        states, place = [], 0  # blanks are at even places
        for before, symbol in itertools.pairwise((BLANK, *symbols)):
            if symbol != before:
                place += 2 if symbol != BLANK and before != BLANK else 1
            states.append(place)
        said = [symbol for symbol, _ in itertools.groupby(symbols) if symbol != BLANK]
        if said == tokens:
            probability = np.exp(sum(float(logp_tv[t, symbol]) for t, symbol in enumerate(symbols)))
            expected_ts[range(frames), states] += probability
    ours_ts = alignment.ctc_posterior(logp_tv, torch.tensor(tokens, dtype=torch.long))
    total = expected_ts[0].sum()
    np.testing.assert_allclose(ours_ts, expected_ts / total if total else 0.0, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours_ts.sum(1), bool(total), rtol=0, atol=1e-9)


def test_a_picture_has_time_to_the_right_tokens_upwards_and_shows_small_probabilities() -> None:
    posterior_tu = np.zeros((20, 3))
    posterior_tu[:10, 0], posterior_tu[10:, 1], posterior_tu[15, 2] = 1, 1, 2e-3
    pixels = alignment.picture(posterior_tu, ["(start)", "▁a", "b"], 0.04).astype(int)
    assert pixels.shape[2] == 3 and pixels.max() == 255
    darkness = 255 * 3 - pixels.sum(2)
    certain = darkness == darkness.max()
    y, x = np.nonzero(certain[:, : pixels.shape[1] - 60])  # without the scale at the right
    before, after = y[x < np.median(x)].mean(), y[x > np.median(x)].mean()
    assert before > after + 5, "the later token stands above the earlier one"
    assert np.ptp(x) + 1 == 20 * 8, "each frame has its place"
    row_of_b = darkness[round(2 * after - before), x.min() : x.max() + 1]
    faint = np.flatnonzero(row_of_b)
    assert faint.min() >= 15 * 8 and faint.max() < 16 * 8 and len(faint) > 4
    assert 50 < row_of_b.max() < darkness.max() - 50, "2 in 1000 can be told from 0 and from 1"


def test_labels_say_the_pieces_or_their_number_where_the_font_has_no_letters() -> None:
    posterior_tu = np.full((4, 2), 0.5)

    def picture(piece: str) -> bytes:
        return alignment.picture(posterior_tu, ["(start)", piece], 0.04).tobytes()

    assert picture("cat") != picture("dog")
    assert picture("▁été") == picture("_ete")
    assert picture("кот") == picture("1") == picture("\x07")


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3000, 2), (5, 1200)])
def test_any_lattice_makes_a_picture_that_any_program_opens(shape: tuple[int, int]) -> None:
    pixels = alignment.picture(np.full(shape, 1e-3), ["a"] * shape[1], 0.03)
    assert pixels.shape[1] >= shape[0] and pixels.shape[0] >= shape[1]
    image = Image.open(io.BytesIO(alignment.png(pixels)))
    assert image.format == "PNG" and np.array_equal(np.asarray(image), pixels)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, vocab: Tokenizer) -> Corpus:
    """Three utterances: without frames, of a minute, and of a second; the fourth says nothing."""
    folder = tmp_path_factory.mktemp("toys")
    spec = FrontendSpec(mels=8)
    toys = [Toy(f"u{i}", "" if i == 3 else TEXTS[i], row_features(i, n)) for i, n in enumerate([0, 4800, 80, 40])]
    write_toys(folder, toys, spec, "logmel", per_shard=4)
    return Corpus(open_shards(str(folder)), vocab)


def test_the_utterance_to_draw_is_one_that_can_be_looked_at(corpus: Corpus) -> None:
    assert alignment.drawable(corpus, range(4)) == 2
    assert alignment.drawable(corpus, [0, 1]) is None
    assert alignment.drawable(corpus, []) is None


@pytest.mark.parametrize("kind", ["transducer", "ctc"])
@pytest.mark.parametrize("row", [2, 3])
def test_a_row_of_a_corpus_becomes_a_picture(
    corpus: Corpus, vocab: Tokenizer, make_model: MakeModel, kind: str, row: int
) -> None:
    model: Transducer | Ctc = make_model(size=vocab.size)
    if kind == "ctc":
        model = Ctc(ModelConfig(kind="ctc", encoder_options=model.config.encoder_options), 8, vocab.size).eval()
    pixels = alignment.of_row(model, vocab, corpus, row, CPU)
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
    colours = {tuple(colour) for colour in pixels.reshape(-1, 3).tolist()}
    assert len(colours) > 20, "there is more than a frame and letters"
    again = alignment.of_row(model, vocab, corpus, row, CPU)
    assert np.array_equal(pixels, again)
