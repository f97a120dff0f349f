"""A model as ONNX graphs in float32, any encoder of asr/encoders: frontend, encoder, predictor and joiner.

torch.onnx.export is asked for its older exporter, through TorchScript. The one on torch.export, into which the work
goes now, makes of an LSTM with a free batch a graph that ONNX Runtime refuses (torch 2.11 with onnxscript 0.7: its
states have a dimension too many), and takes 7 to 9 s for a small model where this one takes 0.3.

Shape letters: b batch, n samples, t frames, s position in a frame, k frequency bin, f mel, j joint size, v vocab.
"""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from asr import frontend
from asr.ctc import Ctc
from asr.engines.exported import Precision
from asr.engines.state_tree import Layout, layout_of
from asr.exporting.cells import are_faster, unrolled
from asr.models import Model
from asr.transducer import StatelessPredictor, Transducer
from shards.spec import FrontendSpec

OPSET = 17  # the first with LayerNormalization
BATCH = 2  # of the examples that are traced; in the graph it is free

StateLayout = list[tuple[str, list[int], str]]  # name, shape without the batch, numpy's name of the type


@dataclass(frozen=True)
class Graphs:
    onnx: dict[str, bytes]
    encoder_state: StateLayout
    predictor_state: StateLayout
    products: bool  # in place of recurrent layers


def make_graphs(model: Model, spec: FrontendSpec, step_frames: int, precision: Precision = "fp32") -> Graphs:
    """The graphs of a model in evaluation mode; the encoder's and the frontend's step is of `step_frames` frames.

    All numbers are float32; for int8 the form is the one that is fastest when rounded.
    """
    products = precision == "int8" and are_faster(model, step_frames)
    if products:
        model = unrolled(model)
    feats_btf = torch.zeros(BATCH, step_frames, spec.mels)
    graphs = {"frontend": _frontend(spec, step_frames)}
    encoder = _Encoder(model)
    graphs["encoder"], encoder_state = _exported(encoder, encoder.states, {"feats": feats_btf}, "enc")
    if isinstance(model, Ctc):
        return Graphs(graphs, encoder_state, [], products)
    predictor = _Predictor(model)
    tokens_b = torch.zeros(BATCH, dtype=torch.long)
    graphs["predictor"], predictor_state = _exported(predictor, predictor.states, {"tokens": tokens_b}, "pred")
    joint = torch.zeros(BATCH, model.config.joint)
    graphs["joiner"], _ = _exported(_Joiner(model), None, {"enc": joint, "pred": joint}, "logp")
    return Graphs(graphs, encoder_state, predictor_state, products)


class _States:
    """A state as inputs of a graph: without tensors that hold nothing, such as the context of an encoder of none."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.leaves = layout.flat(layout.template)
        self.names = [f"state_{i}" for i, leaf in enumerate(self.leaves) if leaf.numel()]

    def tree(self, given: Sequence[Tensor], of_b: Tensor) -> Any:
        """`of_b` is any number of each row: the exporter must see where the size of the batch comes from."""
        tensors = iter(given)
        leaves = (next(tensors) if leaf.numel() else _stretched(leaf, of_b) for leaf in self.leaves)
        return self.layout.tree(list(leaves))

    def flat(self, state: Any) -> list[Tensor]:
        return [leaf for leaf in self.layout.flat(state) if leaf.numel()]

    def described(self) -> StateLayout:
        leaves = [leaf for leaf in self.leaves if leaf.numel()]
        return [
            (name, list(leaf.shape[1:]), str(leaf.numpy().dtype)) for name, leaf in zip(self.names, leaves, strict=True)
        ]


def _stretched(leaf: Tensor, of_b: Tensor) -> Tensor:
    return leaf * of_b.reshape(-1, *[1] * (leaf.ndim - 1)).to(leaf.dtype)


class _Encoder(nn.Module):
    """Log-mel to encoder frames that are projected for the joiner, or a CTC model's log-probabilities."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.states = _States(layout_of(model.encoder.init_state))
        assert not any(leaf.any() for leaf in self.states.leaves), "an encoder's first state is to be zeros"

    def forward(self, feats_btf: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        state = self.states.tree(given, feats_btf[:, 0, 0])
        enc_bne, after = self.model.encoder.step(self.model.normalise(feats_btf), state)
        if isinstance(self.model, Ctc):
            out = self.model.logits(enc_bne).log_softmax(-1)
        else:
            out = self.model.enc_joint(enc_bne)
        return out, *self.states.flat(after)


class _Predictor(nn.Module):
    """One token to the predictor's output, projected for the joiner. Before the start token all is zeros."""

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.model = model

        def state(batch: int) -> list[Tensor]:
            after = model.start(batch)
            return [torch.zeros_like(after.h), torch.zeros_like(after.c)]

        self.states = _States(layout_of(state))

    def forward(self, tokens_b: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        predictor = self.model.predictor
        if isinstance(predictor, StatelessPredictor) and predictor.context == 1:
            # without a state: of the past that it would join to the token, nothing, the exporter loses the shape
            hidden_bh = functional.silu(predictor.convolution(predictor.embedding(tokens_b)))
            return (self.model.pred_joint(predictor.projection(hidden_bh)),)
        h, c = self.states.tree(given, tokens_b)
        out_bup, after = predictor(tokens_b[:, None], (h, c))
        return self.model.pred_joint(out_bup[:, 0]), *self.states.flat(list(after))


class _Joiner(nn.Module):
    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.model = model

    def forward(self, enc_bj: Tensor, pred_bj: Tensor) -> Tensor:
        return self.model.output(torch.tanh(enc_bj + pred_bj)).log_softmax(-1)


def past_samples(spec: FrontendSpec) -> int:
    """The samples in the frontend's state: those of the next frame's window that come before the next hop."""
    return spec.window_samples - spec.hop_samples


class _Frontend(nn.Module):
    """Samples to log-mel: frames of the last `past_samples` and the new samples, a whole number of hops.

    At the start of a stream the state is not zeros but its first `past_samples` samples. By librosa's definition the
    samples are emphasised already, and half a window of them lies before the first, reflected. The Fourier transform
    is a multiplication with its matrix, which every runtime knows: 0.2 M multiplications a frame.
    """

    index_ts: Tensor
    window_s: Tensor
    transform_sk: Tensor
    filters_kf: Tensor

    def __init__(self, spec: FrontendSpec, step_frames: int) -> None:
        super().__init__()
        self.spec = spec
        filters_kf = frontend.mel_filters(spec).T
        position_s, bin_k = np.arange(spec.window_samples), np.arange(len(filters_kf))
        angle_sk = 2 * np.pi / spec.fft_samples * (position_s[:, None] * bin_k % spec.fft_samples)
        tables = {
            "index_ts": np.arange(step_frames)[:, None] * spec.hop_samples + position_s,
            "window_s": frontend.window(spec),
            "transform_sk": np.concatenate([np.cos(angle_sk), np.sin(angle_sk)], 1),
            "filters_kf": filters_kf,
        }
        for name, table in tables.items():
            kind = torch.long if table.dtype.kind == "i" else torch.float32
            self.register_buffer(name, torch.tensor(table, dtype=kind))

    def forward(self, samples_bn: Tensor, past_bn: Tensor) -> tuple[Tensor, Tensor]:
        all_bn = torch.cat([past_bn, samples_bn], 1)
        frames_bts = all_bn[:, self.index_ts]
        if self.spec.definition == "kaldi":
            frames_bts = frames_bts - frames_bts.mean(-1, keepdim=True)
            before_bts = torch.cat([frames_bts[..., :1], frames_bts[..., :-1]], -1)
            frames_bts = frames_bts - self.spec.preemphasis * before_bts
        cos_btk, sin_btk = ((frames_bts * self.window_s) @ self.transform_sk).chunk(2, -1)
        energy_btf = (cos_btk.square() + sin_btk.square()) @ self.filters_kf
        if self.spec.definition == "kaldi":
            feats_btf = energy_btf.clamp(min=float(frontend.FLOOR)).log()
        else:
            feats_btf = (energy_btf + frontend.ADDED).log()
        return feats_btf, all_bn[:, samples_bn.shape[1] :]


def _frontend(spec: FrontendSpec, step_frames: int) -> bytes:
    inputs = {
        "samples": torch.zeros(BATCH, step_frames * spec.hop_samples),
        "state_0": torch.zeros(BATCH, past_samples(spec)),
    }
    return _onnx(_Frontend(spec, step_frames), inputs, ["feats", "next_0"])


def _exported(
    module: nn.Module, states: _States | None, inputs: dict[str, Tensor], out: str
) -> tuple[bytes, StateLayout]:
    if states is None:
        return _onnx(module, inputs, [out]), []
    described = states.described()
    for name, shape, kind in described:
        inputs[name] = torch.from_numpy(np.zeros((BATCH, *shape), kind))
    return _onnx(module, inputs, [out, *(name.replace("state", "next") for name in states.names)]), described


def _onnx(module: nn.Module, inputs: dict[str, Tensor], outputs: list[str]) -> bytes:
    file: Any = io.BytesIO()  # which the older exporter takes, though its annotation does not say so
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of this exporter, which is no longer the default, and of constants in traces
        torch.onnx.export(
            module.eval(), tuple(inputs.values()), file, dynamo=False, opset_version=OPSET,
            input_names=list(inputs), output_names=outputs,
            dynamic_axes={name: {0: "batch"} for name in [*inputs, *outputs]},
        )  # fmt: skip
    return file.getvalue()
