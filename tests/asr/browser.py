"""A headless Chromium, driven over its DevTools protocol (chromedevtools.github.io/devtools-protocol)."""

import contextlib
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-default-apps --disable-dev-shm-usage --mute-audio "
    "--remote-debugging-port=0 --use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
)


class Tab:
    """The one tab of a browser. `asked` are the addresses it loaded, `complaints` what it wrote into its console."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._count = socket, 0
        self.asked: list[str] = []
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=30))
            if message.get("id") == self._count:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self._event(message["method"], message["params"])

    def _event(self, method: str, params: dict[str, Any]) -> None:
        if method in ("Network.requestWillBeSent", "Network.webSocketCreated"):
            self.asked.append(params["request"]["url"] if "request" in params else params["url"])
        elif method in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
            self.complaints.append(json.dumps(params))

    def run(self, script: str) -> Any:
        """The value of an expression, awaited when it is a promise."""
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, condition: str) -> None:
        """Look at every change of the page until the condition holds; pytest's timeout ends what never comes."""
        look = f"const look = () => ({condition}) ? done() : requestAnimationFrame(look); look();"
        self.run(f"new Promise(done => {{ {look} }})")

    def press(self, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until('document.readyState === "complete" && location.href !== "about:blank"')


@contextlib.contextmanager
def browse(profile: Path, *options: str) -> Iterator[Tab]:
    process = subprocess.Popen(
        [BROWSER, *QUIET.split(), f"--user-data-dir={profile}", *options, "about:blank"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if line.startswith("DevTools listening on ws://"))
        host = line.split("://")[1].split("/")[0]
        with urllib.request.urlopen(f"http://{host}/json/list") as answer:
            pages = [page for page in json.loads(answer.read()) if page["type"] == "page"]
        with connect(pages[0]["webSocketDebuggerUrl"], max_size=None) as socket:
            yield Tab(socket)
    finally:
        process.terminate()
        process.communicate(timeout=20)
