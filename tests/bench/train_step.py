"""Times a training step of E4D1 on CPU against the design that it comes from, with torchaudio's loss.

    OMP_NUM_THREADS=1 PYTHONPATH=. taskset -c 0 python tests/bench/train_step.py [REPETITIONS]

A step is forward, backward, clipping and the optimiser, on a batch of 8 utterances of 12 s with 40 tokens each, so that
nobody computes padding. All kinds of step take turns in one process. CPU seconds, medians. Before that, both designs
must give the same loss with the same weights.

With random weights a path may run nearly anywhere, and the sparse backward pass visits half of the lattice. Training
soon narrows it (train_step.md). So there is a second table, with the output layer's weights times SHARPER, and before
each the share of lattice points that are visited.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional

from asr.losses.lattice import NEVER, posteriors
from asr.model_config import LossConfig
from asr.recipe import TrainConfig
from asr.recogniser import Precision
from asr.tokenizer import BLANK
from asr.transducer import Transducer
from configs.load import load

UTTERANCES, SECONDS, TOKENS = 8, 12, 40
MELS, VOCAB, FRAMES_A_SECOND = 80, 2048, 100
SHARPER = 32.0  # as sparse as a trained model
Batch = tuple[Tensor, Tensor, Tensor, Tensor]  # features, frames, targets, tokens
Step = Callable[[Batch], Tensor]


class Origin(nn.Module):
    """The earlier system's E4D1: the joiner is a Linear over every pair of encoder and predictor outputs, side by side,
    and its logits exist for all pairs at once."""

    def __init__(self, hidden: int = 256, layers: int = 4, embedding: int = 64) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(3 * MELS)
        sizes = [3 * MELS] + [hidden] * (layers - 1)
        self.lstms = nn.ModuleList(nn.LSTM(size, hidden, batch_first=True) for size in sizes)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in sizes)
        self.proj = nn.Linear(hidden, hidden)
        self.embed = nn.Embedding(VOCAB, embedding)
        self.predictor = nn.LSTM(embedding, hidden, batch_first=True)
        self.predictor_proj = nn.Linear(hidden, hidden)
        self.joint = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.Tanh(), nn.Linear(hidden, VOCAB))

    def forward(self, feats_btf: Tensor, lens_b: Tensor, targets_bu: Tensor, target_lens_b: Tensor) -> Tensor:
        x = self.norm(feats_btf.unflatten(1, (-1, 3)).flatten(2))
        for i, (lstm, norm) in enumerate(zip(self.lstms, self.norms, strict=True)):
            y, _ = lstm(x)
            x = norm(x + y if i else y)
            if i == 1:
                x = x.unflatten(1, (-1, 2)).mean(2)
        enc, (pred, _) = self.proj(x), self.predictor(self.embed(functional.pad(targets_bu, (1, 0), value=BLANK)))
        pred = self.predictor_proj(pred)
        shape = (len(enc), enc.shape[1], pred.shape[1], -1)
        pairs = torch.cat([enc[:, :, None].expand(shape), pred[:, None].expand(shape)], 3)
        logits, frames = self.joint(pairs).float(), lens_b // 6
        ends = (x.int() for x in (targets_bu, frames, target_lens_b))
        loss: Tensor = torchaudio.functional.rnnt_loss(logits, *ends, blank=BLANK, reduction="mean")
        return loss

    def take_weights(self, ours: Transducer) -> None:
        """The concatenating joiner is a sum of two projections, so that ours fit it exactly."""
        theirs, lstm = ours.encoder, ours.predictor
        for mine, other in [
            (self.norm, theirs.input_norm), (self.lstms, theirs.recurrent), (self.norms, theirs.norms),
            (self.proj, theirs.projection), (self.embed, lstm.embedding), (self.predictor, lstm.lstm),
            (self.predictor_proj, lstm.projection), (self.joint[2], ours.output),
        ]:  # fmt: skip
            mine.load_state_dict(other.state_dict())
        weight = torch.cat([ours.enc_joint.weight, ours.pred_joint.weight], 1)
        self.joint[0].load_state_dict({"weight": weight, "bias": ours.enc_joint.bias})


def make_batch(draw: torch.Generator) -> Batch:
    frames = SECONDS * FRAMES_A_SECOND
    feats = torch.randn(UTTERANCES, frames, MELS, generator=draw)
    targets = torch.randint(1, VOCAB, (UTTERANCES, TOKENS), generator=draw)
    return feats, torch.full((UTTERANCES,), frames), targets, torch.full((UTTERANCES,), TOKENS)


def make_ours(config: TrainConfig, ctc: bool, sharper: float = 1.0) -> Transducer:
    torch.manual_seed(0)
    model = Transducer(replace(config.model, ctc=ctc), MELS, VOCAB)
    with torch.no_grad():
        model.output.weight *= sharper
    return model


@torch.no_grad()
def visited(model: Transducer, batch: Batch, eps: float) -> float:
    """Share of the lattice points of the first utterance whose posterior is above eps."""
    feats, lens, targets, target_lens = (x[:1] for x in batch)
    enc, enc_lens = model.encode(feats, lens)
    pred, _ = model.predictor(functional.pad(targets, (1, 0), value=BLANK), None)
    hidden = torch.tanh(model.enc_joint(enc)[:, :, None] + model.pred_joint(pred)[:, None])
    logp = model.output(hidden).log_softmax(3).double()
    token = logp[:, :, :-1].gather(3, targets[:, None, :, None].expand(-1, logp.shape[1], -1, 1))[..., 0]
    _, by_blank, by_token = posteriors(
        logp[..., BLANK], functional.pad(token, (0, 1), value=NEVER), enc_lens, target_lens
    )
    return float(((by_blank + by_token) > eps).double().mean())


def origin_step(precision: Precision) -> Step:
    model = Origin()
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-4)

    def step(batch: Batch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(*batch)
        return update(model, optimiser, loss)

    return step


def our_step(config: TrainConfig, model: Transducer, loss_config: LossConfig, precision: Precision) -> Step:
    optimiser = torch.optim.AdamW(model.parameters(), config.optim.lr, (0.9, 0.98), foreach=True)
    return lambda batch: update(model, optimiser, model(*batch, loss_config, precision).total)


def update(model: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimiser.step()
    return loss.detach()


def check_same_losses(config: TrainConfig, batch: Batch) -> None:
    """Ends the program when the two designs are not the same function of the same weights."""
    ours, origin = make_ours(config, ctc=False), Origin()
    origin.take_weights(ours)
    sizes = [sum(p.numel() for p in model.parameters()) for model in (origin, ours, make_ours(config, ctc=True))]
    print("parameters: theirs {:,}, ours {:,}, and with the CTC head of its training {:,}".format(*sizes))
    with torch.no_grad():
        expected = float(origin(*batch))
        for precision, allowed in (("fp32", 1e-5), ("bf16", 1e-2)):
            found = float(ours(*batch, config.loss, precision).main)
            print(f"loss with equal weights: theirs {expected:.4f}, ours in {precision} {found:.4f}")
            if abs(found - expected) > allowed * expected:
                sys.exit("the losses differ")


def compare(config: TrainConfig, draw: torch.Generator, repetitions: int, sharper: float) -> None:
    exact, sparse, by_bytes = (replace(config.loss, **x) for x in ({"eps": 0.0}, {}, {"precision": "int8"}))
    plain = [make_ours(config, False, sharper) for _ in range(4)]
    whole = [make_ours(config, True, sharper) for _ in range(2)]
    share = visited(plain[0], make_batch(draw), sparse.eps)
    print(f"\noutput weights x {sharper:g}: {share:.0%} of the lattice visited\n")
    steps = {
        "theirs, fp32": origin_step("fp32"),
        "theirs, bf16": origin_step("bf16"),
        "ours, fp32, eps=0, no CTC head": our_step(config, plain[0], exact, "fp32"),
        "ours, fp32, no CTC head": our_step(config, plain[1], sparse, "fp32"),
        "ours, bf16, no CTC head": our_step(config, plain[2], sparse, "bf16"),
        "ours, bf16, loss in int8, no CTC head": our_step(config, plain[3], by_bytes, "bf16"),
        "ours, bf16, as configs/train/e4d1.yaml": our_step(config, whole[0], sparse, "bf16"),
        "the same, loss in int8": our_step(config, whole[1], by_bytes, "bf16"),
    }
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for repetition in range(repetitions + 1):  # the first one warms up
        batch = make_batch(draw)
        for name, step in steps.items():
            start_s = time.process_time()
            step(batch)
            if repetition:
                spent[name].append((time.process_time() - start_s) / (UTTERANCES * SECONDS))
    print("| step | CPU s per audio-second | lowest to highest | x |\n|---|---|---|---|")
    first_s = statistics.median(spent["theirs, fp32"])
    for name, found in spent.items():
        median_s, low, high = statistics.median(found), min(found), max(found)
        print(f"| {name} | {median_s:.4f} | {low:.4f}–{high:.4f} | {first_s / median_s:.1f} |", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    config = load(TrainConfig, "e4d1", "train")
    draw = torch.Generator().manual_seed(0)
    check_same_losses(config, make_batch(draw))
    for sharper in (1.0, SHARPER):
        compare(config, draw, repetitions, sharper)


if __name__ == "__main__":
    main()
