import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from manifests import parquet
from manifests.schema import Utterance


@pytest.fixture(scope="session")
def speech_data() -> Path:
    """The folder of real corpora: SPEECH_DATA, else ../shared/speech beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "speech"
    folder = Path(os.environ.get("SPEECH_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no speech data at {folder}; set SPEECH_DATA")
    return folder


@pytest.fixture(scope="session")
def corpus() -> Callable[..., list[Utterance]]:
    """A function that writes `count` WAVs of noise, no two alike, and folder/manifest.parquet; gives its rows."""

    def write(folder: Path, count: int, split: str = "train", duration_s: float = 0.5) -> list[Utterance]:
        rows = []
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            length_s = duration_s + i % 7 / 50
            seed = zlib.crc32(f"{split}-{i}".encode())
            noise = np.random.default_rng(seed).normal(0, 0.1 + 0.01 * (i % 5), round(length_s * 16000))
            uri = str(folder / f"{split}-{i:04d}.wav")
            soundfile.write(uri, noise, 16000, subtype="PCM_16")
            rows.append(Utterance(f"{split}-{i:04d}", "toy", split, "en", f"s{i % 3}", uri, 0.0, len(noise) / 16000,
                                  16000, 1, f"Word {i}!", f"word {'é' * (i % 4)}", "CC0", "made"))  # fmt: skip
        parquet.write_utterances(str(folder / parquet.MANIFEST), rows)
        return rows

    return write


@pytest.fixture
def bucket() -> Iterator[str]:
    """The URL of an empty bucket of a real S3 server on loopback, which obstore finds through the environment."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {
            "AWS_ENDPOINT_URL": url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        }.items():  # fmt: skip
            patch.setenv(key, value)
        boto3.client("s3", region_name="us-east-1", endpoint_url=url).create_bucket(Bucket="speech")
        yield "s3://speech"
    server.stop()
