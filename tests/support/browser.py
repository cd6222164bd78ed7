"""A headless Chromium, driven through its debugging pipe: no other package."""

import base64
import json
import os
import shutil
import subprocess
import time

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find():
    """Returns the browser's program, or None."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


class Page:
    """One page of a browser of its own.

    Args:
      folder: for the browser's profile.
      size: of the window.
    """

    def __init__(self, folder, size=(1000, 900)):
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()

        def take_pipes():  # as descriptors 3 and 4, which Chromium expects
            kept = os.dup(commands), os.dup(answers)
            os.dup2(kept[0], 3)
            os.dup2(kept[1], 4)

        self._process = subprocess.Popen(
            [
                find(),
                *("--headless=new", "--no-sandbox", "--disable-gpu", "--mute-audio"),
                *("--remote-debugging-pipe", f"--user-data-dir={folder}"),
                *("--no-first-run", "--disable-dev-shm-usage", "--disable-extensions"),
                "--autoplay-policy=no-user-gesture-required",
                f"--window-size={size[0]},{size[1]}",
                "about:blank",
            ],
            preexec_fn=take_pipes,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._number, self._session, self._rest = 0, None, b""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]

    def open(self, url):
        self._call("Page.navigate", url=url)
        self.wait(
            "document.readyState === 'complete' && location.href !== 'about:blank'"
        )

    def run(self, script):
        """Returns the value of an expression; promises are waited for."""
        answer = self._call(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition, secs=120):
        end = time.monotonic() + secs
        while not self.run(condition):
            assert time.monotonic() < end, f"never came true: {condition}"
            time.sleep(0.05)

    def choose_file(self, selector, path):
        """Picks a file as a person does in the file dialogue."""
        document = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=document, selector=selector)
        self._call("DOM.setFileInputFiles", files=[str(path)], nodeId=node["nodeId"])

    def screenshot(self):
        """Returns a PNG of the window."""
        return base64.b64decode(self._call("Page.captureScreenshot")["data"])

    def close(self):
        self._process.kill()
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)

    def _call(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                part = os.read(self._answers, 2**16)
                assert part, "the browser has ended"
                self._rest += part
            text, _, self._rest = self._rest.partition(b"\0")
            answer = json.loads(text)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
