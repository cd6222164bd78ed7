"""What the `docker` commands of the documents start, with the stand-in server."""

import pathlib
import shlex

import yaml

from support import tf_serving

PORTS = ["8500:8500", "8501:8501"]


def start(command, folder):
    """Starts the server of `docker run ...` or `docker compose -f FILE up -d`."""
    words = shlex.split(command.replace("$PWD", str(folder)))
    if words[1] == "run":
        return _start(**_of_run(words[2:]))
    assert words[1:3] == ["compose", "-f"] and words[4:] == ["up", "-d"], command
    return start_compose(folder / words[3])


def start_compose(path):
    """Starts the service called serving of a compose file."""
    service = yaml.safe_load(path.read_text("utf8"))["services"]["serving"]
    places = [volume.split(":") for volume in service["volumes"]]
    mounts = {place[1]: (path.parent / place[0]).resolve() for place in places}
    return _start(service["image"], service["ports"], mounts, {}, service["command"])


def _of_run(words):
    options = {"-p": [], "-v": [], "-e": [], "--name": []}
    words = [word for word in words if word != "--rm"]
    while words[0].startswith("-"):
        options[words[0]].append(words[1])
        words = words[2:]
    places = [volume.split(":") for volume in options["-v"]]
    return {
        "image": words[0],
        "ports": options["-p"],
        "mounts": {place[1]: pathlib.Path(place[0]) for place in places},
        "environment": dict(each.split("=", 1) for each in options["-e"]),
        "arguments": words[1:],
    }


def _start(image, ports, mounts, environment, arguments):
    assert image.startswith("tensorflow/serving:") and ports == PORTS
    # What the image's entry point passes on.
    name = environment.get("MODEL_NAME", "model")
    given = ["--port=8500", "--rest_api_port=8501", f"--model_name={name}"]
    given.append(f"--model_base_path=/models/{name}")
    return tf_serving.Server([*given, *arguments], mounts)
