"""The commands of this package, as pyproject.toml names them. Nothing else is imported before `start`."""

from functools import partial

from configs.start import start

prepare_corpus = partial(start, "pipelines.prepare")
build_vocab = partial(start, "pipelines.vocab")
combine_manifests = partial(start, "pipelines.combine")
write_shards = partial(start, "pipelines.featurize")
inspect_shards = partial(start, "pipelines.inspect_shards")
index_shards = partial(start, "pipelines.index_shards")
sweep_asr = partial(start, "pipelines.sweep")
