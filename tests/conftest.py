import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def speech_data() -> Path:
    """The folder of real corpora: SPEECH_DATA, else ../shared/speech beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "speech"
    folder = Path(os.environ.get("SPEECH_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no speech data at {folder}; set SPEECH_DATA")
    return folder
