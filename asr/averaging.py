"""Means of weights: a moving one of a training, and average-bundles of several bundles."""

import argparse
import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from asr import checkpoint
from configs import cli
from configs.wording import counted
from manifests import storage


class Ema:
    """The exponential moving average of a model's weights (Polyak & Juditsky 1992), held beside them.

    The decay of the first steps is lower, (1 + n) / (10 + n), so that the mean is not that of the random beginning.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self.means = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After so many steps before this one."""
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.means.values()), [p for _, p in self._model.named_parameters()], share)

    def raw(self) -> dict[str, Tensor]:
        """The weights as the optimiser has them, for a checkpoint."""
        return {name: p.detach().clone() for name, p in self._model.named_parameters()}

    def restore(self, raw: dict[str, Tensor]) -> None:
        """The model's present weights are the means; the optimiser goes on from `raw`."""
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                self.means[name].copy_(parameter)
                parameter.copy_(raw[name])

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model has the means."""
        raw = self.raw()
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                parameter.copy_(self.means[name])
            try:
                yield
            finally:
                for name, parameter in self._model.named_parameters():
                    parameter.copy_(raw[name])


def averaged(ema: Ema | None) -> contextlib.AbstractContextManager[None]:
    """Inside, the model has the weights that are measured and saved."""
    return ema.applied() if ema is not None else contextlib.nullcontext()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="average-bundles", description="The mean of bundles' weights as a bundle.")
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE", help="for instance runs/<name>/epoch-0*, which "
                        "train-asr keep_epochs=10 leaves")  # fmt: skip
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the new bundle")
    parser.add_argument("--force", action="store_true", help="replace a bundle that is there")
    cli.add_json(parser)
    return cli.run(average, parser, argv)


def average(args: argparse.Namespace) -> None:
    """Raises ValueError for bundles of other models, vocabularies or features, and for what is in the way."""
    out = storage.absolute(args.out)
    if not storage.is_local(out):
        raise ValueError(f"--out {args.out}: a bundle is written to a folder of this machine; copy it from there")
    _check_each_once(args.bundles)
    facts = {"averaged": [_named(uri) for uri in args.bundles]}
    if (
        storage.exists(storage.join(out, checkpoint.FACTS))
        and checkpoint.load(out).facts.get("averaged") == facts["averaged"]
    ):
        return cli.say(args, f"{out}: is the mean of these bundles already")
    if next(iter(storage.list_files(out)), None) is not None and not (
        args.force and storage.exists(storage.join(out, checkpoint.FACTS))
    ):
        raise ValueError(f"--out {args.out}: is not empty; choose another, or say --force to replace a bundle")
    if storage.exists(storage.join(out, checkpoint.TRAINING_FACTS)):
        raise ValueError(f"--out {args.out}: is what a training goes on from; choose another")
    first = checkpoint.load(args.bundles[0])
    known = first.facts  # as it holds for the mean: the dev WER of one bundle, for instance, does not
    sums: dict[str, Tensor] = {}
    for number, uri in enumerate(args.bundles):
        bundle = checkpoint.load(uri) if number else first
        check_same_kind(uri, bundle, args.bundles[0], first)
        known = {key: value for key, value in known.items() if bundle.facts.get(key) == value}
        for name, value in bundle.model.state_dict().items():
            sums[name] = value.double() + sums.get(name, 0)
    state = first.model.state_dict()
    first.model.load_state_dict({name: (sums[name] / len(args.bundles)).to(state[name].dtype) for name in state})
    checkpoint.settle(out)
    checkpoint.save(out, replace(first, facts=known | facts))
    values = {"bundle": out, "bundles": len(args.bundles)}
    cli.summary(args, values, f"mean of {counted(len(args.bundles), 'bundle')}: {out}")


def _named(uri: str) -> dict[str, str]:
    """A bundle by its folder's name and its weights."""
    return {"bundle": storage.name(uri.rstrip("/")), "weights_sha256": checkpoint.weights_sha256(uri)}


def _check_each_once(uris: Sequence[str]) -> None:
    places = [storage.absolute(uri) for uri in uris]
    for uri, place in zip(uris, places, strict=True):
        if places.count(place) > 1:
            raise ValueError(f"{uri}: is given {places.count(place)} times; each bundle counts once in the mean")


def check_same_kind(uri: str, bundle: checkpoint.Bundle, other_uri: str, other: checkpoint.Bundle) -> None:
    """Raises ValueError that names the fields in which two bundles differ."""
    ours, theirs = _fields(bundle), _fields(other)
    differing = [
        f"{part}.{key} {json.dumps(ours[part].get(key))} and {json.dumps(theirs[part].get(key))}"
        for part in ours
        for key in sorted(ours[part].keys() | theirs[part].keys())
        if ours[part].get(key) != theirs[part].get(key)
    ]
    if differing:
        raise ValueError(f"{uri}: is of another kind than {other_uri}: {', '.join(differing)}")


def _fields(bundle: checkpoint.Bundle) -> dict[str, dict[str, Any]]:
    model = asdict(bundle.model.config)
    options = model.pop("encoder_options")
    return {"model": model, "model.encoder_options": options, "frontend": asdict(bundle.spec),
            "vocab": {"fingerprint": bundle.tokenizer.fingerprint}}  # fmt: skip
