"""The commands of this package, as pyproject.toml names them. Nothing is imported before `cli.start`."""

from functools import partial

from configs import cli

train_asr = partial(cli.start, "asr.train")
average_bundles = partial(cli.start, "asr.averaging")
evaluate_asr = partial(cli.start, "asr.evaluate")
transcribe = partial(cli.start, "asr.transcribe")
serve_asr = partial(cli.start, "asr.serve")
export_asr = partial(cli.start, "asr.export")
compare_runtimes = partial(cli.start, "asr.compare")
import_bundle = partial(cli.start, "asr.import_bundle")
train_lm = partial(cli.start, "asr.train_lm")
