"""A microphone: the real PortAudio with ALSA's file plugin in the place of a sound card; and what is missing."""

import ctypes.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr import checkpoint
from asr.checkpoint import Bundle
from asr.live import microphone
from asr.live.feed import Feed

# A capture device that plays a file. It has no clock: it gives sound as fast as it is asked.
ALSA = """
pcm.toymic {{
  type plug
  slave {{ format S16_LE rate {rate} channels 1
    pcm {{ type file slave.pcm "null" file "/dev/null" infile "{raw}" format "raw" }} }}
}}
pcm.!default {{ type plug slave.pcm "toymic" }}
"""
# the command, with a queue of two seconds: this device overruns any
COMMAND = """
import sys
from asr import transcribe
from asr.live.feed import Feed
Feed.__init__.__defaults__ = (2.0,)
sys.exit(transcribe.main(sys.argv[1:]))
"""

with_portaudio = pytest.mark.skipif(
    ctypes.util.find_library("portaudio") is None or not Path("/usr/share/alsa/alsa.conf").is_file(),
    reason="needs PortAudio and ALSA: apt install libportaudio2",
)


def run(home: Path, *argv: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", COMMAND, *argv], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, hum: np.ndarray) -> Path:
    """Of somebody whose microphone hears this."""
    (tmp_path / "in.raw").write_bytes(np.round(hum * 32767).astype("<i2").tobytes())
    (tmp_path / ".asoundrc").write_text(ALSA.format(raw=tmp_path / "in.raw", rate=16000))
    return tmp_path


@with_portaudio
def test_what_is_said_is_kept_until_ctrl_c_which_is_no_failure(home: Path, bundle: Bundle) -> None:
    checkpoint.save(str(home / "bundle"), bundle)
    kept = home / "kept.wav"
    child = run(home, "mic", "--bundle", str(home / "bundle"), "--save-audio", str(kept), "--format", "json")
    assert child.stdout is not None
    said = child.stdout.readline()  # so it has recognised something
    child.send_signal(signal.SIGINT)
    rest, notes = child.communicate(timeout=60)
    assert child.returncode == 0, notes
    assert '"words": [{"word": ' in said + rest
    assert notes.splitlines()[0].startswith("listening to ") and "Traceback" not in notes
    assert "missed" in notes.splitlines()[-1] and "recognition was 2 s behind, and more is not kept" in notes
    sound, rate = soundfile.read(kept, dtype="int16")
    assert rate == 16000
    played = np.fromfile(home / "in.raw", "<i2")
    # the device leaves sound out where it is read too late, but what came first is what was played first
    np.testing.assert_array_equal(sound[:1000], played[:1000])


@with_portaudio
def test_microphones_are_listed_without_a_bundle(home: Path) -> None:
    child = run(home, "mic", "--list-microphones")
    listed, errors = child.communicate(timeout=60)
    assert (child.returncode, errors) == (0, "")
    assert any(line.startswith("* ") and "default, 128 channels" in line for line in listed.splitlines())
    assert any("toymic" in line for line in listed.splitlines())


OPEN = """
import sys
from asr.live import microphone
from asr.live.feed import Feed
for device in sys.argv[1:]:
    try:
        with microphone.listening(Feed(16000), device):
            print("opened")
    except ValueError as err:
        print(err)
"""


@with_portaudio
def test_a_microphone_that_is_not_there_is_one_line(home: Path) -> None:
    def opened(*devices: str) -> list[str]:
        command = [sys.executable, "-c", OPEN, *devices]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HOME": str(home)})
        return done.stdout.splitlines()

    nope, far, there = opened("nope", "77", "toymic")
    assert nope.startswith("--microphone nope: cannot be opened (No input device matching")
    assert far.startswith("--microphone 77: cannot be opened") and there == "opened"
    (home / ".asoundrc").unlink()
    assert opened("toymic") == ["there is no microphone here; plug one in, or allow this program to use it"]


def test_without_sounddevice_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ValueError, match=r"pip install '\.\[mic\]'"), microphone.listening(Feed(16000), None):
        pass


def test_without_portaudio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real sounddevice, on a machine where the library is not found."""
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(ValueError, match="apt install libportaudio2"):
        microphone.devices()
