"""The language model in numpy: what torch trained, as probabilities that a search can add to its own."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr import lm
from asr.engine import rows
from asr.language import model as lm_model
from asr.language.config import LmConfig
from asr.language.model import LstmLm
from asr.tokenizer import BLANK, Tokenizer
from manifests import storage
from tests.pipelines.httpd import serve


@pytest.fixture(scope="module", params=[1, 2], ids=["one layer", "two layers"])
def pair(
    request: pytest.FixtureRequest, vocab: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[LstmLm, lm.LanguageModel, Path]:
    """A random model that is sure of itself, the same as read from its bundle, and the bundle."""
    torch.manual_seed(3)
    model = LstmLm(LmConfig(12, 16, request.param, 0.3), vocab.size).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
        model.bias.normal_()
    folder = tmp_path_factory.mktemp("lm") / "best"
    lm_model.save(str(folder), model, vocab, {"perplexity": {"token": 3.5}})
    return model, lm.load(str(folder)), folder


def walk(model: lm.LanguageModel, tokens_bu: np.ndarray) -> np.ndarray:
    """Log-probabilities [b, 1 + u, v], token by token."""
    logp, state = model.start(len(tokens_bu))
    found = [logp]
    for tokens_b in tokens_bu.T:
        logp, state = model.advance(tokens_b, state)
        found.append(logp)
    return np.stack(found, 1)


def test_steps_in_numpy_are_what_torch_was_trained_on(pair: tuple[LstmLm, lm.LanguageModel, Path]) -> None:
    torch_model, model, _ = pair
    tokens_bu = np.random.default_rng(1).integers(1, model.vocab, (3, 40))
    with torch.no_grad():
        logits = torch_model(torch.nn.functional.pad(torch.from_numpy(tokens_bu), (1, 0), value=BLANK))
    expected = logits.log_softmax(-1).numpy()
    found = walk(model, tokens_bu)
    assert np.ptp(expected) > 5 and model.mean_logp == -math.log(3.5)
    np.testing.assert_allclose(found[..., 1:], expected, atol=1e-4)
    assert (found[..., BLANK] == -np.inf).all()
    np.testing.assert_allclose(np.exp(found).sum(-1), 1, atol=1e-5)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_hypothesis_does_not_depend_on_its_neighbours_nor_change_what_it_came_from(
    data: st.DataObject, pair: tuple[LstmLm, lm.LanguageModel, Path]
) -> None:
    model = pair[1]
    tokens = st.lists(st.integers(1, model.vocab - 1), min_size=4, max_size=4)
    tokens_bu = np.array(data.draw(st.lists(tokens, min_size=2, max_size=5)))
    which = data.draw(st.lists(st.integers(0, len(tokens_bu) - 1), min_size=1, max_size=6))
    _, state = model.start(len(tokens_bu))
    for tokens_b in tokens_bu[:, :3].T:
        _, state = model.advance(tokens_b, state)
    before = [part.copy() for part in state]
    picked = rows(state, which)  # as a beam does: some die, some go on twice
    found, _ = model.advance(tokens_bu[which, 3], picked)
    np.testing.assert_allclose(found, walk(model, tokens_bu[which])[:, -1], atol=1e-5)
    for part, kept in zip(state, before, strict=True):
        np.testing.assert_array_equal(part, kept)


def test_a_recogniser_without_torch_can_load_it(pair: tuple[LstmLm, lm.LanguageModel, Path], vocab: Tokenizer) -> None:
    code = "import sys; from asr import lm; print(lm.load(sys.argv[1]).vocab_fingerprint, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(pair[2])], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [vocab.fingerprint, "False"]


def cut(folder: Path) -> None:
    path = folder / lm.WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def flip(folder: Path) -> None:
    path = folder / lm.WEIGHTS
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def garble(folder: Path) -> None:
    (folder / lm.FACTS).write_text('{"version": 1, "vo')


def forget(folder: Path) -> None:
    (folder / lm.WEIGHTS).unlink()


def other_vocab(folder: Path) -> None:
    from asr import tokenizer

    texts = ["other words", "and others"]
    size = tokenizer.smallest_size(texts, byte_fallback=False) + 1
    (folder / lm.VOCAB).write_bytes(tokenizer.train(texts, "bpe", size, byte_fallback=False))


def change(**values: object) -> Callable[[Path], None]:
    def body(folder: Path) -> None:
        facts = json.loads((folder / lm.FACTS).read_text())
        (folder / lm.FACTS).write_text(json.dumps(facts | values))

    return body


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (cut, "was cut short or altered"),
        (flip, "was cut short or altered"),
        (garble, r"lm\.json: is damaged"),
        (forget, r"is not a language model \(no weights.safetensors\)"),
        (other_vocab, "is not the vocabulary that this language model was trained with"),
        (change(version=9), "is a language model of version 9, this program reads 1"),
        (change(vocab=None), "is damaged"),
        (change(vocab={"size": 4}), "is damaged"),
        (change(perplexity={"token": "low"}), "is damaged"),
        (change(model={"hidden": 17}), "does not fit the model in lm.json: embedding.weight"),
        (change(model={"hiden": 17}), "unknown key hiden"),
    ],
)
def test_a_damaged_bundle_is_refused_in_one_line(
    fault: Callable[[Path], None], said: str, pair: tuple[LstmLm, lm.LanguageModel, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(pair[2], tmp_path / "lm"))
    fault(folder)
    with pytest.raises(ValueError, match=said) as caught:
        lm.load(str(folder))
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPEECHMILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.usefixtures("cache")
def test_it_is_read_from_an_object_store(pair: tuple[LstmLm, lm.LanguageModel, Path], bucket: str) -> None:
    _, model, folder = pair
    for path in folder.iterdir():
        storage.write_bytes(f"{bucket}/models/lm/{path.name}", path.read_bytes())
    expected, _ = model.start(2)
    found, _ = lm.load(f"{bucket}/models/lm").start(2)
    np.testing.assert_array_equal(found, expected)


def test_it_comes_once_from_a_web_server_and_whole(
    pair: tuple[LstmLm, lm.LanguageModel, Path], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, model, folder = pair
    expected, _ = model.start(1)
    with serve() as site:
        site.files = {f"/lm/{path.name}": path.read_bytes() for path in folder.iterdir()}
        whole = site.files["/lm/weights.safetensors"]
        site.files["/lm/weights.safetensors"] = whole[:-1] + bytes([whole[-1] ^ 1])
        with pytest.raises(OSError, match=r"weights\.safetensors: .*SHA-256"):
            lm.load(f"{site.url}/lm")
        site.files["/lm/weights.safetensors"] = whole
        lm.load(f"{site.url}/lm")
        assert f"fetching {site.url}/lm (" in capsys.readouterr().err
        sent = site.sent
        np.testing.assert_array_equal(lm.load(f"{site.url}/lm/").start(1)[0], expected)
        assert site.sent - sent == len((folder / "lm.json").read_bytes()), "all else is here"
        (copy,) = cache.glob("bundles/*/weights.safetensors")
        copy.write_bytes(whole[:-1])
        np.testing.assert_array_equal(lm.load(f"{site.url}/lm").start(1)[0], expected)
        with pytest.raises(ValueError, match=r"/nothing: is not a language model \(no lm\.json\)"):
            lm.load(f"{site.url}/nothing")
