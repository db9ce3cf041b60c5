"""A real browser for tests: headless Chromium, controlled through the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--hide-scrollbars", "--remote-debugging-port=0",
)  # fmt: skip
_SECONDS = 30


class Tab:
    """A browser tab, whose console output is collected in `messages`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: Any) -> None:
        self._loop, self._socket, self._numbers = loop, socket, itertools.count(1)
        self.messages: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, parameters), _SECONDS))

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            said = await self._socket.receive_json()
            self._note(said.get("method", ""), said.get("params", {}))
            if said.get("id") == number:
                assert "error" not in said, said
                return said["result"]

    def _note(self, event: str, facts: dict[str, Any]) -> None:
        if event == "Log.entryAdded":
            self.messages.append(f"{facts['entry']['level']}: {facts['entry']['text']}")
        elif event in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.messages.append(f"{event}: {facts}")

    def open(self, address: str, width: int = 1280, height: int = 900, dark: bool = False, wait_s: float = 0.3) -> None:
        """Open an address in a window of this width, in the light or dark colour scheme."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=address)
        end = time.monotonic() + _SECONDS
        while self.run("document.readyState") != "complete":
            assert time.monotonic() < end, f"{address} does not load"
            time.sleep(0.05)
        time.sleep(wait_s)

    def run(self, script: str) -> Any:
        """Evaluate JavaScript in the page, as its console would, and return the value."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def photograph(self, path: Path, whole: bool = True) -> None:
        """Save a screenshot of the page as PNG."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))


@contextmanager
def open_browser() -> Iterator[Tab]:
    """Start a browser with its own profile and close it afterwards."""
    assert PROGRAM is not None, "there is no Chromium"
    loop = asyncio.new_event_loop()
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [PROGRAM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        session = loop.run_until_complete(_open_session())
        try:
            socket = loop.run_until_complete(_connect(session, Path(profile, "DevToolsActivePort")))
            yield Tab(loop, socket)
        finally:
            loop.run_until_complete(session.close())
            process.terminate()
            process.wait(_SECONDS)
            loop.close()


async def _open_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(trust_env=False)


async def _connect(session: aiohttp.ClientSession, port_file: Path) -> Any:
    end = time.monotonic() + _SECONDS
    while not port_file.exists() or not port_file.read_text().strip():
        assert time.monotonic() < end, "the browser does not start"
        await asyncio.sleep(0.05)
    port = port_file.read_text().split()[0]
    async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
        tabs = await answer.json(content_type=None)
    address = next(each["webSocketDebuggerUrl"] for each in tabs if each["type"] == "page")
    return await session.ws_connect(address, max_msg_size=0)
