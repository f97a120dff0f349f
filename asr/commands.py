"""The commands of this package, as pyproject.toml names them. Nothing else is imported before `start`."""

from functools import partial

from configs.start import start

train_asr = partial(start, "asr.train")
average_bundles = partial(start, "asr.averaging")
evaluate_asr = partial(start, "asr.evaluate")
transcribe = partial(start, "asr.transcribe")
serve_asr = partial(start, "asr.serve")
export_asr = partial(start, "asr.export")
compare_runtimes = partial(start, "asr.compare")
import_bundle = partial(start, "asr.import_bundle")
train_lm = partial(start, "asr.train_lm")
