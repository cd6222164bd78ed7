"""A running `tools.explore` in this process, with a tiny tagger."""

import contextlib
import pathlib
import threading
import time

from genre_tl.serving import model_card, saved_model, versions
from tools import explore_app, explore_server, retraining


@contextlib.contextmanager
def running(model, work_dir, data_dir=""):
    """Yields the application and its address."""
    application = explore_app.Application(str(model), str(work_dir), str(data_dir))
    with contextlib.closing(application), explore_server.Server(0) as server:
        server.application = application
        serve = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        serve.start()
        yield application, f"http://localhost:{server.server_port}"
        server.shutdown()


def wait(application, secs=300):
    """Waits until nothing is left to do."""
    end = time.monotonic() + secs
    while True:
        state = application.gets["state"]()
        if not state["is_busy"]:
            return state
        assert time.monotonic() < end
        time.sleep(0.02)


def without_checks(monkeypatch):
    """Lets training publish versions without the checks, which take a minute."""

    def export(trained, base, *, card, write, on_check):
        version = pathlib.Path(base, str(1 + max([0, *versions.numbers_in(base)])))
        saved_model.save(trained, version)
        model_card.write(version, card | trained.facts())
        return version

    monkeypatch.setattr(retraining.export, "export", export)
