"""The commands of this package, as pyproject.toml names them. Nothing is imported before `cli.start`."""

from functools import partial

from configs import cli

prepare_corpus = partial(cli.start, "pipelines.prepare")
build_vocab = partial(cli.start, "pipelines.vocab")
combine_manifests = partial(cli.start, "pipelines.combine")
write_shards = partial(cli.start, "pipelines.featurize")
inspect_shards = partial(cli.start, "pipelines.inspect_shards")
index_shards = partial(cli.start, "pipelines.index_shards")
sweep_asr = partial(cli.start, "pipelines.sweep")
