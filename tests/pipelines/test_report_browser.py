"""The report in a real browser: it loads nothing, complains of nothing, plays, and fits telephones and desks."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from manifests.schema import DROPPED_SCHEMA, UTTERANCE_SCHEMA, Dropped, Utterance, to_table
from pipelines import report

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-default-apps --disable-dev-shm-usage --mute-audio"
)
TEXTS = ["a cat", "مرحبا بالعالم", "שלום עולם", "வணக்கம் உலகம்", "你好世界", "こんにちは", "добрый день", "x" * 400]
# Runs in the page itself and tells the page around it what it finds, once all sounds are known.
PROBE = """<script>addEventListener("load", () => { let tries = 0; const look = () => {
  const sounds = [...document.querySelectorAll("audio")], pictures = [...document.querySelectorAll("img")];
  if (tries++ < 100 && sounds.some(s => !s.error && s.readyState < 1)) return setTimeout(look, 50);
  const outside = [...document.querySelectorAll("main *")].filter(
    e => !e.closest(".wide, svg") && e.getBoundingClientRect().right > innerWidth + 1);
  parent.postMessage(JSON.stringify({ wide: document.documentElement.scrollWidth, window: innerWidth,
    seconds: sounds.map(s => s.duration), pictures: pictures.map(p => p.naturalHeight),
    outside: outside.map(e => e.outerHTML.slice(0, 90)) }), "*"); }; look(); });</script>"""
# A window of headless Chromium is never narrower than 500 pixels; a frame in it can be.
FRAME = """<!DOCTYPE html><iframe src="probed.html" style="width: {width}px; height: 900px; border: 0"></iframe>
<script>addEventListener("message", event => {{ document.title = event.data; }});</script>"""

pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, corpus: Callable[..., list[Utterance]]) -> Path:
    folder = tmp_path_factory.mktemp("report")
    rows = [
        replace(row, text=text, text_raw=text, speaker="f" * 128, extra='{"accent": "' + "y" * 200 + '"}')
        for row, text in zip(corpus(folder, len(TEXTS)), TEXTS, strict=True)
    ]
    lost = [Dropped("d" * 90, "toy", "train", "/" + "long/" * 40, 1.0, "t" * 300, "too long", "z" * 300)]
    dropped = to_table(lost, DROPPED_SCHEMA)
    report.write(str(folder), to_table(rows, UTTERANCE_SCHEMA), dropped, None, "T" * 100, "prepare-corpus " + "w" * 300)
    return folder / "report.html"


def browse(page: Path, tmp_path: Path) -> tuple[str, str, list[str]]:
    """The page as the browser built it, what it said, and the addresses that it asked for."""
    log = tmp_path / "net.json"
    done = subprocess.run(
        [BROWSER, *QUIET.split(), f"--user-data-dir={tmp_path / 'profile'}",
         "--window-size=1500,1000", "--enable-logging=stderr", f"--log-net-log={log}",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=10000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    params = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    own = "not an origin"  # Chromium asks its maker about updates and the time, whatever it is told
    asked = sorted({p["url"] for p in params if p.get("initiator", own) != own})
    return done.stdout, done.stderr, asked


def test_it_loads_nothing_and_the_console_stays_empty(page: Path, tmp_path: Path) -> None:
    dom, said, asked = browse(page, tmp_path)
    assert asked == [] and "CONSOLE" not in said
    assert all(text in dom for text in TEXTS) and dom.count("<article") == len(TEXTS)


def test_what_the_test_above_would_see(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text('<img src="http://example.invalid/a.png"><script>console.error("oh")</script>')
    _, said, asked = browse(page, tmp_path)
    assert asked == ["http://example.invalid/a.png"] and "CONSOLE" in said


@pytest.mark.parametrize("width", [360, 1400])
def test_it_fits_the_window_and_its_sounds_and_pictures_are_good(page: Path, tmp_path: Path, width: int) -> None:
    html = page.read_text().replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
    (tmp_path / "probed.html").write_text(html.replace("</body>", PROBE + "</body>"))
    framed = tmp_path / "framed.html"
    framed.write_text(FRAME.format(width=width))
    title = re.search("<title>(.*?)</title>", browse(framed, tmp_path)[0])
    assert title, "the page did not come to its end"
    found = json.loads(unescape(title[1]))
    assert found["window"] == width and found["wide"] <= width, found["outside"]
    assert found["outside"] == []
    assert found["pictures"] == [80] * len(TEXTS)
    assert found["seconds"] == pytest.approx([0.5 + i % 7 / 50 for i in range(len(TEXTS))], abs=0.1)
