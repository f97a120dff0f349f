"""A model in PyTorch, on CPU or GPU, behind the calls of asr.engine."""

import contextlib
import threading
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from asr.checkpoint import Bundle
from asr.ctc import Ctc
from asr.endpoint import EndpointRules
from asr.engine import Floats, Ids, State, Traits
from asr.engines.state_tree import layout_of
from asr.models import Model
from asr.recogniser import chunk_of
from asr.searching.hypotheses import SearchOptions
from asr.stream import Listener
from asr.transducer import PredictorState, Transducer

GREEDY = SearchOptions()


class _Off:
    """oneDNN is off while any thread is inside. The switch is one for all threads: if each put back what it had found,
    it would stay off once two of them overlapped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._switch = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the switch itself warns of GPUs that nobody asked for
                    self._switch.enter_context(torch.backends.mkldnn.flags(enabled=False))

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._switch.close()


_ONEDNN = _Off()


class TorchEngine:
    """See asr.engine.Engine. An encoder's states stay on the device; all else comes and goes as numpy arrays."""

    def __init__(self, model: Model, device: str = "cpu") -> None:
        self.model = model.to(device).eval()
        self.device = torch.device(device)
        encoder = model.encoder
        self.traits = Traits(
            kind="ctc" if isinstance(model, Ctc) else "transducer",
            vocab=model.vocab,
            reduction=encoder.reduction,
            chunk=chunk_of(encoder),
            tail_frames=model.config.tail_frames,
            start_token=model.config.start_token,
        )
        self.mean_f: Floats = model.mean_f.float().cpu().numpy()
        self._layout = layout_of(encoder.init_state)
        self._recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())

    def encoder_start(self, batch: int) -> State:
        return self._layout.flat(self.model.encoder.init_state(batch))

    @torch.inference_mode()
    def encode(self, feats_btf: Floats, state: State) -> tuple[Floats, State]:
        with self._quick():
            normal_btf = self.model.normalise(self._tensor(feats_btf))
            enc_bne, after = self.model.encoder.step(normal_btf, self._layout.tree(state))
            if isinstance(self.model, Ctc):
                out = self.model.logits(enc_bne).log_softmax(-1)
            else:
                out = self.model.enc_joint(enc_bne)
        return _array(out), self._layout.flat(after)

    def stack(self, states: Sequence[State]) -> State:
        return tuple(torch.cat(tensors) for tensors in zip(*states, strict=True))

    def unstack(self, state: State) -> list[State]:
        # copies: a view of one stream would keep the arrays of all others alive
        batch = len(state[0])
        if batch == 1:
            return [state]
        return [tuple(tensor[i : i + 1].clone() for tensor in state) for i in range(batch)]

    @torch.inference_mode()
    def predictor_start(self, batch: int) -> tuple[Floats, State]:
        assert isinstance(self.model, Transducer)
        with self._quick():
            return _predicted(self.model.start(batch))

    @torch.inference_mode()
    def predict(self, tokens_b: Ids, state: State) -> tuple[Floats, State]:
        assert isinstance(self.model, Transducer)
        h, c = (self._tensor(part).transpose(0, 1) for part in state)
        everywhere = torch.ones(len(tokens_b), dtype=torch.bool, device=self.device)
        nothing = torch.zeros(len(tokens_b), self.model.config.joint, device=self.device)
        before = PredictorState(h.contiguous(), c.contiguous(), nothing)
        with self._quick():
            return _predicted(self.model.advance(self._tensor(tokens_b), before, everywhere))

    @torch.inference_mode()
    def join(self, enc_bj: Floats, pred_bj: Floats | None) -> Floats:
        if not isinstance(self.model, Transducer):
            return enc_bj
        assert pred_bj is not None
        joined_bj = torch.tanh(self._tensor(enc_bj) + self._tensor(pred_bj))
        return _array(self.model.output(joined_bj).log_softmax(-1))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _quick(self) -> contextlib.AbstractContextManager[object]:
        """oneDNN packs an LSTM's weights anew in every call; at batch 1 that takes several times as long as the step.

        With it off, E6D2 takes 15 ms for a step of 75 ms, with it on 104.
        """
        return _ONEDNN if self._recurrent and self.device.type == "cpu" else contextlib.nullcontext()


def _array(tensor: Tensor) -> Floats:
    return tensor.float().cpu().numpy()


def _predicted(after: PredictorState) -> tuple[Floats, State]:
    """The batch axis of h and c, which is their second, comes first."""
    state = tuple(np.ascontiguousarray(part.transpose(0, 1).cpu().numpy()) for part in (after.h, after.c))
    return _array(after.joint_bj), state


def listener_of(bundle: Bundle, search: SearchOptions = GREEDY, endpoints: EndpointRules | None = None) -> Listener:
    """What streams of a bundle that is already loaded share; without `endpoints` each is one segment."""
    return Listener(TorchEngine(bundle.model), bundle.tokenizer, bundle.spec, search, endpoints)
