"""Where a model hears the tokens of an utterance: the posterior of its alignments, and a picture of it.

Shape letters: b batch, t encoder frames, u tokens (+ 1), s states of CTC, v vocab, y and x pixels.
"""

import io
import math
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from asr.corpus import Corpus
from asr.ctc import Ctc
from asr.losses import lattice
from asr.models import Model
from asr.tokenizer import BLANK, WORD_MARK, Tokenizer
from asr.transducer import Transducer

CHUNK_LOGITS = 1 << 22  # 16 MB of them at a time
LONGEST_S = 30.0  # of an utterance to draw: its lattice is some 750 frames x 400 tokens, 20 MB in all
SMALLEST = 1e-4  # probability that still has a colour
WIDTH, HEIGHT = 1200, 900  # pixels of the lattice, at most, if each of its points is to have one
LETTERS = 11  # pixels; rows closer than this have not each a label
# From probabilities below SMALLEST to 1, even on a logarithmic scale.
COLOURS = np.array([(255, 255, 255), (205, 222, 240), (120, 172, 214), (38, 108, 175), (6, 34, 84)])
INK, LINE = (40, 44, 52), (170, 176, 186)
FONT = ImageFont.load_default(LETTERS)

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]


def drawable(corpus: Corpus, rows: Sequence[int]) -> int | None:
    """The first of these rows whose lattice makes a picture that one can read; always the same one."""
    longest = LONGEST_S / corpus.spec.frame_s
    return next((row for row in rows if 0 < corpus.shards.frames[row] <= longest), None)


def of_row(model: Model, tokenizer: Tokenizer, corpus: Corpus, row: int, device: torch.device) -> Pixels:
    """The picture of a `drawable` utterance: at each frame the token that came last. `model` is in eval()."""
    feats_tf = torch.from_numpy(corpus.features(row)).to(device)
    ids = corpus.tokens([corpus.text(row)])[0]
    lens_b, target_lens_b = (torch.tensor([n], device=device) for n in (len(feats_tf), len(ids)))
    targets_bu = torch.tensor([ids], dtype=torch.long, device=device)
    probabilities = posterior(model, model.normalise(feats_tf[None]), lens_b, targets_bu, target_lens_b)
    pieces = ["(start)", *tokenizer.pieces(ids)]
    if isinstance(model, Ctc):  # a row for the blanks before, between and behind the tokens
        pieces = ["", *(label for piece in pieces[1:] for label in (piece, ""))]
    return picture(probabilities, pieces, model.encoder.reduction * corpus.spec.frame_s)


@torch.inference_mode()
def posterior(model: Model, feats_btf: Tensor, lens_b: Tensor, targets_bu: Tensor, target_lens_b: Tensor) -> Floats:
    """Where the alignments of one utterance with its tokens are, weighted by their probability.

    Of a transducer [t, u + 1]: the probability that a path through the lattice crosses frame t behind u tokens. Of a
    CTC model [t, 2u + 1]: that frame t is a blank (even columns) or a token (odd); zeros where there are too few frames
    for the tokens. Arguments are those of the model's forward(), of a batch of one; the model is in eval().
    """
    assert not model.training and len(feats_btf) == 1
    if isinstance(model, Ctc):
        enc_bte, _ = model.encode(feats_btf, lens_b)
        return ctc_posterior(model.logits(enc_bte)[0].double().log_softmax(-1), targets_bu[0])
    blank_tu, token_tu = leaving(model, feats_btf, lens_b, targets_bu, target_lens_b)
    return blank_tu + token_tu


@torch.inference_mode()
def leaving(
    model: Transducer, feats_btf: Tensor, lens_b: Tensor, targets_bu: Tensor, target_lens_b: Tensor
) -> tuple[Floats, Floats]:
    """Probabilities [t, u + 1] that a path leaves a point of a transducer's lattice by blank, and by the next token."""
    enc_bte, enc_lens_b = model.encode(feats_btf, lens_b)
    pred_bup, _ = model.predictor(functional.pad(targets_bu, (1, 0), value=model.config.start_token), None)
    enc_tj, pred_uj = model.enc_joint(enc_bte)[0, : int(enc_lens_b)], model.pred_joint(pred_bup)[0]
    next_u = functional.pad(targets_bu[0], (0, 1), value=BLANK)
    blank_tu, token_tu = [], []
    for part_tj in enc_tj.split(max(1, CHUNK_LOGITS // (len(pred_uj) * model.output.out_features))):
        logp_tuv = model.output(torch.tanh(part_tj[:, None] + pred_uj)).double().log_softmax(-1)
        blank_tu.append(logp_tuv[..., BLANK])
        token_tu.append(logp_tuv.gather(2, next_u[None, :, None].expand(len(part_tj), -1, 1))[..., 0])
    token_btu = torch.cat(token_tu)[None]
    token_btu[:, :, -1] = lattice.NEVER  # nothing comes behind the last
    _, *post = lattice.posteriors(torch.cat(blank_tu)[None], token_btu, enc_lens_b, target_lens_b)
    blank, token = (p[0].cpu().numpy() for p in post)
    return blank, token


def ctc_posterior(logp_tv: Tensor, targets_u: Tensor) -> Floats:
    """Probabilities [t, s] of the states blank, first token, blank, second token, …, blank in each frame.

    Forwards and backwards as in Graves et al. 2006, section 4.1. From a state a path goes on to the next one, or past a
    blank to the next token unless that is the same again.
    """
    states_s = np.full(2 * len(targets_u) + 1, BLANK)
    states_s[1::2] = targets_u.cpu().numpy()
    emit_ts = logp_tv.double().cpu().numpy()[:, states_s]
    forward_ts = _ctc_forward(emit_ts, states_s)
    backward_ts = _ctc_forward(emit_ts[::-1, ::-1], states_s[::-1])[::-1, ::-1]
    total = np.logaddexp.reduce(forward_ts[-1, -2:])
    return np.exp(forward_ts + backward_ts - emit_ts - total) if np.isfinite(total) else np.zeros_like(emit_ts)


def _ctc_forward(emit_ts: Floats, states_s: npt.NDArray[np.int64]) -> Floats:
    """Log-probabilities of what leads to a state in a frame, this frame included."""
    skips_s = np.zeros(len(states_s), bool)
    skips_s[2:] = (states_s[2:] != BLANK) & (states_s[2:] != states_s[:-2])
    forward_ts = np.full(emit_ts.shape, -np.inf)
    forward_ts[0, :2] = emit_ts[0, :2]
    for t in range(1, len(emit_ts)):
        before = np.concatenate([[-np.inf] * 2, forward_ts[t - 1]])
        skipped = np.where(skips_s, before[:-2], -np.inf)
        forward_ts[t] = emit_ts[t] + np.logaddexp(np.logaddexp(before[2:], before[1:-1]), skipped)
    return forward_ts


def picture(posterior_tu: Floats, pieces: Sequence[str], frame_s: float) -> Pixels:
    """An image [y, x, RGB]: time to the right with ticks in seconds, tokens upwards with their pieces at the left.

    Colours are even in the logarithm of the probability.
    """
    num_t, num_u = posterior_tu.shape
    wide, high = max(1, min(8, WIDTH // num_t)), max(1, min(14, HEIGHT // num_u))
    lattice_yxc = _coloured(posterior_tu.T[::-1].repeat(high, 0).repeat(wide, 1))
    height, width = high * num_u, wide * num_t
    labels = [_label(piece, u) for u, piece in enumerate(pieces)]
    left, top = 12 + math.ceil(max(FONT.getlength(label) for label in labels)), 10
    canvas = Image.new("RGB", (left + width + 70, top + height + 34), "white")
    canvas.paste(Image.fromarray(lattice_yxc), (left, top))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((left - 1, top - 1, left + width, top + height), outline=LINE)
    _rows(draw, labels, (left, top, height))
    _seconds(draw, num_t * frame_s, (left, top + height, width))
    _scale(canvas, draw, (left + width + 14, top, min(height, 160)))
    return np.asarray(canvas)


def png(pixels: Pixels) -> bytes:
    """The image as a file's content."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _coloured(probabilities_yx: Floats) -> Pixels:
    """[y, x, RGB]."""
    place_yx = 1 - np.log(np.maximum(probabilities_yx, SMALLEST)) / math.log(SMALLEST)
    places = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(place_yx, places, colour) for colour in COLOURS.T]
    return np.rint(np.stack(channels, -1)).astype(np.uint8)


def _label(piece: str, number: int) -> str:
    """A piece in what the font has, which is ASCII; without accents if need be, or else the token's number."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", piece) if not unicodedata.combining(c))
    plain = plain.replace(WORD_MARK, "_")
    return plain if plain.isascii() and plain.isprintable() else str(number)


def _rows(draw: ImageDraw.ImageDraw, labels: Sequence[str], box: tuple[int, int, int]) -> None:
    """Labels at the left of (left, top, height), so many that they do not touch."""
    left, top, height = box
    above = math.inf
    for u, label in enumerate(labels):
        middle = top + height * (1 - (u + 0.5) / len(labels))
        if label and above - middle >= LETTERS:
            draw.text((left - 5, middle), label, INK, FONT, "rm")
            above = middle


def _seconds(draw: ImageDraw.ImageDraw, length_s: float, box: tuple[int, int, int]) -> None:
    """Ticks below (left, bottom, width), not nearer to each other than 50 pixels."""
    left, bottom, width = box
    least = 50 * length_s / width
    power = 10.0 ** math.floor(math.log10(least))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= least)
    for i in range(math.floor(length_s / step) + 1):
        x = left + width * i * step / length_s
        draw.line((x, bottom, x, bottom + 4), LINE)
        draw.text((x, bottom + 6), f"{i * step:g} s" if i else "0", INK, FONT, "mt")


def _scale(canvas: Image.Image, draw: ImageDraw.ImageDraw, box: tuple[int, int, int]) -> None:
    """What the colours mean, at (left, top, height)."""
    left, top, height = box
    place_y = np.linspace(0, math.log(SMALLEST), height)
    canvas.paste(Image.fromarray(_coloured(np.exp(np.tile(place_y[:, None], 12)))), (left, top))
    draw.rectangle((left - 1, top - 1, left + 12, top + height), outline=LINE)
    decades = round(-math.log10(SMALLEST))
    for i in range(decades + 1):
        draw.text((left + 17, top + height * i / decades), f"{10.0**-i:g}", INK, FONT, "lm")
