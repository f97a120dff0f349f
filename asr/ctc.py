"""Connectionist temporal classification (Graves et al. 2006): a symbol, or blank, for each encoder frame.

The loss is that of the CTC models here and of the CTC head beside a transducer. A CTC model has no predictor: what it
says in a frame does not depend on what it said before. So it is smaller and faster, needs a word's context in the
encoder (long chunks), and suits recognition that may wait.

Shape letters: b batch, t encoder frames, f mels, u tokens, e encoder output, v vocab.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.model_config import LossConfig, ModelConfig
from asr.recogniser import DEFAULT_LOSS, Losses, Precision, Recogniser, autocast
from asr.tokenizer import BLANK


def ctc_loss(logits_btv: Tensor, targets_bu: Tensor, lens_b: Tensor, target_lens_b: Tensor) -> Tensor:
    """Mean negative log-likelihood of the targets, in nats, of those utterances that have a path.

    Between two equal tokens there must be a blank: an utterance needs as many frames as `frames_needed` says. One with
    fewer has an infinite loss; it adds nothing to the gradient and does not count in the mean, which a loss of 0 would
    make better than it is. Of a batch without any path the loss is 0.
    """
    logp_tbv = logits_btv.log_softmax(-1).transpose(0, 1)
    losses_b = functional.ctc_loss(
        logp_tbv, targets_bu, lens_b, target_lens_b, blank=BLANK, reduction="none", zero_infinity=True
    )
    return losses_b.sum() / (frames_needed(targets_bu, target_lens_b) <= lens_b).sum().clamp(min=1)


def frames_needed(targets_bu: Tensor, target_lens_b: Tensor) -> Tensor:
    """The fewest frames [b] in which CTC can say the targets: one for each token and each repeat of the one before."""
    u = torch.arange(targets_bu.shape[1], device=targets_bu.device)
    repeats_bu = (targets_bu[:, 1:] == targets_bu[:, :-1]) & (u[1:] < target_lens_b[:, None])
    return target_lens_b + repeats_bu.sum(1)


class Ctc(Recogniser):
    def __init__(self, config: ModelConfig, mels: int, vocab: int) -> None:
        super().__init__(config, mels, vocab)
        self.output = nn.Linear(self.encoder.output_size, vocab)

    def forward(
        self, feats_btf: Tensor, lens_b: Tensor, targets_bu: Tensor, target_lens_b: Tensor,
        config: LossConfig = DEFAULT_LOSS, precision: Precision = "fp32", step: int = 0,
    ) -> Losses:  # fmt: skip
        """Losses of a batch, called as a transducer is. Features are normalised; targets are padded with any token.

        Nothing in `config` applies to it.
        """
        with autocast(feats_btf.device, precision):
            enc_bte, enc_lens_b = self.encode(feats_btf, lens_b)
        loss = ctc_loss(self.output(enc_bte.float()), targets_bu, enc_lens_b, target_lens_b)
        return Losses(loss, loss, torch.zeros_like(loss))

    def logits(self, enc_bte: Tensor) -> Tensor:
        """[b, t, v] of encoder outputs."""
        return self.output(enc_bte)
