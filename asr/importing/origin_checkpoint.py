"""Weights of an online-speech-recognition checkpoint under the names that they have here.

That system (2020–21) saved with torch.save: {"model": state_dict, …}, or Lightning's file, where the names in
`state_dict` begin with `model.`. Its joiner multiplies the encoder's output and the predictor's side by side with one
matrix; the two halves of that matrix are our two projections. All else has another name only.
"""

import argparse
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

import torch
from torch import Tensor

from asr.transducer import Transducer
from manifests import storage
from manifests.storefaults import shown

LIGHTNING = "model."  # start of the names in its files
JOINT = "joint.joint.0.weight"
_GLOBAL = re.compile(r"Unsupported (?:global|class)\b.*?GLOBAL (\S+)|unsupported GLOBAL (\S+)")  # in torch's refusals
SHOWN = 3  # names in a message


class _Inert:
    """Stands for a class that a checkpoint names beside its weights; what it holds is never looked at."""

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _InertDict(dict):
    """Lightning's dictionary of hyper-parameters."""


_NAMED: list[Any] = [  # classes in Lightning's files of that time: loaded as nothing at all
    argparse.Namespace,
    (_InertDict, "pytorch_lightning.utilities.parsing.AttributeDict"),
    (_Inert, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
    (_Inert, "pytorch_lightning.callbacks.early_stopping.EarlyStopping"),
]


def read(uri: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by the names that its system gave them.

    Nothing in the file is run: it is read with weights_only. Raises ValueError of one line.
    """
    with storage.open_read(uri) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other pickles and of TorchScript, which are refused
        try:
            _check_sums(file)
            with torch.serialization.safe_globals(_NAMED):
                loaded = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as err:  # of torch's unpickler, which does not say what it may raise
            reason = " ".join(str(err).split())
            if found := _GLOBAL.search(reason):
                what = found[1] or found[2]
                raise ValueError(f"{shown(uri)}: holds {what} beside its weights, which is not loaded as it might run "
                                 "code; save its state_dict alone, where you trust it") from None  # fmt: skip
            raise ValueError(f"{shown(uri)}: is no checkpoint that torch.save wrote, or was cut short or altered "
                             f"({reason[:200] or type(err).__name__})") from None  # fmt: skip
    return _state_dict(shown(uri), loaded)


def _check_sums(file: IO[bytes]) -> None:
    """Of the zip archive that PyTorch has written since 1.6, which it does not compare itself: of 40 files with one bit
    turned over it read 39. Raises ValueError for a part that was altered."""
    if zipfile.is_zipfile(file) and (altered := zipfile.ZipFile(file).testzip()):
        raise ValueError(f"the checksum of its part {altered} is wrong")
    file.seek(0)


def _state_dict(name: str, loaded: Any) -> dict[str, Tensor]:
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model"), Mapping):
        tensors = loaded["model"]
    elif isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        tensors = {str(key).removeprefix(LIGHTNING): value for key, value in loaded["state_dict"].items()}
    else:
        raise ValueError(f"{name}: has neither 'model' nor 'state_dict' in it, so it is no checkpoint of "
                         "online-speech-recognition")  # fmt: skip
    if others := [key for key, value in tensors.items() if not _is_plain(value)]:
        raise ValueError(f"{name}: {others[0]} is no tensor of floating-point numbers")
    return {str(key): value.detach() for key, value in tensors.items()}


def _is_plain(value: object) -> bool:
    """Whether it is a tensor as others are: not sparse, not nested, and with its numbers in memory."""
    return (
        isinstance(value, Tensor) and value.is_floating_point() and value.layout is torch.strided
        and not value.is_nested and value.device.type == "cpu"
    )  # fmt: skip


def names(layers: int, predictor_layers: int) -> Iterator[tuple[str, str]]:
    """(their name, ours) of all weights but JOINT."""
    both = ("weight", "bias")
    recurrent = [f"{kind}_{part}_l" for kind in both for part in ("ih", "hh")]
    yield from ((f"encoder.norm.{kind}", f"encoder.input_norm.{kind}") for kind in both)
    for i in range(layers):
        yield from ((f"encoder.lstm.lstms.{i}.{w}0", f"encoder.recurrent.{i}.{w}0") for w in recurrent)
        yield from ((f"encoder.lstm.projs.{i}.0.{kind}", f"encoder.norms.{i}.{kind}") for kind in both)
    yield from ((f"encoder.proj.{kind}", f"encoder.projection.{kind}") for kind in both)
    yield "decoder.embed.weight", "predictor.embedding.weight"
    for k in range(predictor_layers):
        yield from ((f"decoder.lstm.{w}{k}", f"predictor.lstm.{w}{k}") for w in recurrent)
    yield from ((f"decoder.proj.{kind}", f"predictor.projection.{kind}") for kind in both)
    yield "joint.joint.0.bias", "enc_joint.bias"
    yield from ((f"joint.joint.2.{kind}", f"output.{kind}") for kind in both)


def put_in(tensors: Mapping[str, Tensor], model: Transducer, name: str) -> None:
    """Give a model these weights. Raises ValueError that names what is missing, superfluous or of another shape."""
    ours = model.state_dict()
    layers = sum(key.startswith("encoder.norms.") for key in ours) // 2
    pairs = dict(names(layers, model.config.predictor_layers))
    shapes = {theirs: list(ours[key].shape) for theirs, key in pairs.items()}
    encoder_size = ours["enc_joint.weight"].shape[1]
    shapes[JOINT] = [model.config.joint, encoder_size + model.config.predictor_projection]
    faults = [
        *_listed("it lacks", [key for key in shapes if key not in tensors]),
        *_listed("it has beside them", [key for key in tensors if key not in shapes]),
        *_listed("of another shape are", [
            f"{key} ({list(tensors[key].shape)}, by the config {shape})"
            for key, shape in shapes.items() if key in tensors and list(tensors[key].shape) != shape
        ]),
    ]  # fmt: skip
    if faults:
        raise ValueError(f"{name}: does not fit the config and vocabulary: {'; '.join(faults)}")
    joint = tensors[JOINT].float()
    found = {key: tensors[theirs].float() for theirs, key in pairs.items()}
    found |= {"enc_joint.weight": joint[:, :encoder_size], "pred_joint.weight": joint[:, encoder_size:]}
    if bad := [key for key, value in found.items() if not torch.isfinite(value).all()]:
        raise ValueError(f"{name}: has weights that are not finite, as {bad[0]}")
    missing, unexpected = model.load_state_dict(found, strict=False)
    assert set(missing) == {"mean_f", "scale_f"} and not unexpected  # its features are not normalised


def _listed(what: str, keys: list[str]) -> list[str]:
    if not keys:
        return []
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return [f"{what} {', '.join(keys[:SHOWN])}{more}"]
