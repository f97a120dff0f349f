"""The page in a real browser, with a microphone that hears a WAV."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from browser import BROWSER, Tab, browse
from served import Served, recognised, serve

from asr.serving.limits import Limits
from asr.stream import Listener

pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")

# Notes every word that becomes final, and everything else that ever happens to it.
WATCH = """
globalThis.finals = []; globalThis.rewritten = 0; globalThis.partials = 0;
new MutationObserver(changes => { for (const change of changes) {
  for (const node of change.addedNodes) {
    if (node.className === "final") finals.push(node.textContent.trim());
    if (node.className === "partial") partials++;
  }
  for (const node of change.removedNodes) if (node.className === "final" || node.tagName === "P") rewritten++;
  if (change.type === "characterData" && change.target.parentElement?.className === "final") rewritten++;
} }).observe(document.getElementById("transcript"), { childList: true, subtree: true, characterData: true });
"""


@pytest.fixture(scope="module")
def served(listener: Listener) -> Iterator[Served]:
    with serve(listener, Limits(streams=1)) as served:
        yield served


@pytest.fixture(scope="module")
def wav(hum: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "said.wav"
    soundfile.write(file, hum, 16000, subtype="PCM_16")
    return file


@pytest.fixture(scope="module")
def browser(wav: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browse(tmp_path_factory.mktemp("profile"), f"--use-file-for-fake-audio-capture={wav}") as tab:
        yield tab


@pytest.fixture
def tab(browser: Tab, served: Served) -> Iterator[Tab]:
    """The page, just opened, with its transcript watched. It loads nothing from elsewhere and complains of nothing."""
    browser.asked.clear()
    browser.complaints.clear()
    browser.open(served.url)
    browser.run(WATCH)
    yield browser
    assert browser.complaints == []
    ours = (f"http://127.0.0.1:{served.port}/", f"ws://127.0.0.1:{served.port}/", "data:")
    assert [url for url in browser.asked if not url.startswith(ours)] == []


def shown(tab: Tab, id: str) -> str:
    return tab.run(f'document.getElementById("{id}").textContent')


def test_the_microphone_by_keyboard(tab: Tab) -> None:
    tab.press("Tab", 9)
    assert tab.run("document.activeElement.id") == "microphone"
    tab.press("Enter", 13, "\r")
    tab.until('finals.length > 2 && partials > 0 && document.getElementById("latency").textContent.endsWith(" ms")')
    assert shown(tab, "status") == "Listening" and shown(tab, "microphone") == "Stop"
    assert -60 < int(tab.run('document.getElementById("level").ariaValueNow')) < 0
    tab.press("Enter", 13, "\r")
    tab.until('document.getElementById("status").textContent === "Ready"')
    assert tab.run("rewritten") == 0
    assert shown(tab, "transcript").split() == " ".join(tab.run("finals")).split(), "nothing partial is left"
    assert tab.run('document.getElementById("error").hidden') is True


def test_a_file_gives_the_words_of_its_samples(tab: Tab, listener: Listener, wav: Path) -> None:
    choose(tab, wav)
    tab.until('document.getElementById("status").textContent === "Ready" && finals.length')
    samples_t, _ = soundfile.read(wav, dtype="float32")
    words = [word["word"] for word in recognised(listener, samples_t)]
    assert tab.run("finals") == shown(tab, "transcript").split() == words
    assert shown(tab, "heard") == "2.0 s" and tab.run("rewritten") == 0
    files = tab.run("""new Promise(async done => {
      const texts = []; URL.createObjectURL = blob => { blob.text().then(t => texts.push(t)); return "data:,"; };
      for (const id of ["text", "srt"]) document.getElementById(id).click();
      while (texts.length < 2) await new Promise(requestAnimationFrame);
      done(texts); })""")
    assert files[0].split() == words
    assert files[1].startswith("1\n00:00:0") and [w for w in files[1].split() if w in words] == words


def test_what_the_browser_cannot_read_the_server_does(tab: Tab, wav: Path, tmp_path: Path) -> None:
    data, _ = soundfile.read(wav)
    soundfile.write(tmp_path / "said.aiff", data, 16000)
    choose(tab, tmp_path / "said.aiff")
    tab.until('document.getElementById("status").textContent === "Ready" && finals.length')
    assert any("/transcribe" in url for url in tab.asked)


def test_a_refusal_is_shown(tab: Tab, served: Served, wav: Path) -> None:
    with served.hub.slot():
        choose(tab, wav)
        tab.until('!document.getElementById("error").hidden')
    assert shown(tab, "error") == "no room: 1 of 1 streams are in use; try again later"


def test_it_can_do_no_more_than_it_should(tab: Tab, served: Served) -> None:
    """Were a word able to bring HTML in, its scripts would not run, and it could tell nobody."""
    refused = tab.run("""(() => {
      const found = []; document.addEventListener("securitypolicyviolation", e => found.push(e.effectiveDirective));
      const script = document.createElement("script"); script.textContent = "globalThis.harmed = true";
      const box = document.getElementById("transcript"); box.append(script);
      box.insertAdjacentHTML("beforeend", "<b onclick='globalThis.harmed = true'></b><img src=/metrics>");
      box.querySelector("b").click();
      return fetch("http://evil.example/").catch(() => new Promise(done => setTimeout(() => done(found))));
    })()""")
    assert {d.partition("-")[0] for d in refused} == {"script", "img", "connect"}
    assert tab.run("globalThis.harmed") is None
    tab.complaints.clear()
    tab.asked.clear()


def test_a_server_that_is_gone(browser: Tab, listener: Listener) -> None:
    """That is said, what was final stays, and the microphone is free."""
    with serve(listener, Limits()) as ours:
        browser.open(ours.url)
        browser.run(WATCH)
        microphone = 'document.getElementById("microphone").click()'
        browser.run(microphone)
        browser.until("finals.length > 2")
    browser.until('document.getElementById("status").textContent === "Ready"')
    assert shown(browser, "error") == "the server is stopping" and browser.run("rewritten") == 0
    browser.run(microphone)
    browser.until('!document.getElementById("error").hidden')
    assert shown(browser, "error") == "The server does not answer."


def test_a_large_file_is_left_to_the_server(tab: Tab, tmp_path: Path) -> None:
    """Three hours would be gigabytes in the browser."""
    with (tmp_path / "long.wav").open("wb") as file:
        file.truncate(40 << 20)
    choose(tab, tmp_path / "long.wav")
    tab.until('!document.getElementById("error").hidden')
    assert "cannot be read as audio" in shown(tab, "error")
    tab.complaints.clear()  # that the answer was 422


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(tab: Tab, width: int, scheme: str) -> None:
    tab.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    found: dict[str, Any] = tab.run("""(() => {
      const light = colour => { const [r, g, b] = colour.match(/[\\d.]+/g).map(v => v / 255).map(
        v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      const box = document.getElementById("transcript");
      box.innerHTML = '<p><span class="final">black</span> <span class="partial">grey</span></p>';
      const paper = light(getComputedStyle(box).backgroundColor);
      const of = name => contrast(light(getComputedStyle(box.querySelector(name)).color), paper);
      const low = [...document.querySelectorAll("button")].map(b => b.getBoundingClientRect().height);
      return { wide: document.documentElement.scrollWidth, final: of(".final"), partial: of(".partial"), paper,
        low: Math.min(...low) }; })()""")
    assert found["wide"] <= width
    assert found["final"] > 12 and 4.5 < found["partial"] < 8  # WCAG 2.2, 1.4.3: at least 4.5
    assert (found["paper"] > 0.5) == (scheme == "light")
    assert found["low"] >= 44


def choose(tab: Tab, file: Path) -> None:
    root = tab.call("DOM.getDocument")["root"]["nodeId"]
    node = tab.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    tab.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])
