"""How a network learns: its optimizer, its graphs, and what a checkpoint holds."""

from __future__ import annotations

import os
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from genre_tl import files, params
from genre_tl.model import gru, networks

Scorer = Callable[[np.ndarray], tf.Tensor]
Steps = Callable[[np.ndarray, np.ndarray], dict[str, tf.Tensor]]

_Path = str | os.PathLike[str]

_ANEW = "training cannot go on: give another --run_dir, or remove this one"


class Adam(keras.optimizers.Adam):
    """Adam with learning rates of their own for what has to do with the layers.

    Args:
      backbone_rate: what the learning rate of the recurrent layers is multiplied
        with.
      states_rate: the same, of the head's weights after the first `num_inputs`.
      num_inputs: how many of the head's weights read the input itself; 0 for a
        head that has one learning rate.
      head_pull: each step takes the head `learning_rate * head_pull` of the way back
        to where `begin` found it: one number, or one for each of its outputs. It is
        a variable that may be set. None never pulls.
      **kwargs: as Keras has them.
    """

    def __init__(
        self,
        *,
        backbone_rate: float = 1.0,
        states_rate: float = 1.0,
        num_inputs: int = 0,
        head_pull: float | np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.backbone_rate = backbone_rate
        self.states_rate = states_rate
        self.num_inputs = num_inputs
        self.head_pull: Any = head_pull
        self._fresh: list[np.ndarray] = []

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Makes room for the moments, and for where the head begins."""
        is_new = not self.built
        super().build(variables)
        if not is_new:
            return
        self._anchors = {}
        if self.head_pull is not None:
            pull = self.add_variable(np.shape(self.head_pull), name="head_pull")
            pull.assign(self.head_pull)
            self.head_pull = pull
            self._anchors = {
                variable.path: self.add_variable_from_reference(variable, "anchor")
                for variable in variables
                if _is_of_head(variable)
            }

    def begin(self, network: keras.Model) -> None:
        """Forgets all steps, and takes the head as it is for its beginning."""
        self.build(network.trainable_variables)
        # At the first call there has been no step.
        self._fresh = self._fresh or [variable.numpy() for variable in self.variables]
        for variable, value in zip(self.variables, self._fresh, strict=True):
            variable.assign(value)
        for variable in network.trainable_variables:
            if variable.path in self._anchors:
                self._anchors[variable.path].assign(variable)

    def update_step(
        self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Changes one variable."""
        # What comes here has lost its path; its place among all variables has not.
        path = self._trainable_variables[self._get_variable_index(variable)].path
        if "gru_cell" in path:
            learning_rate = learning_rate * self.backbone_rate
        if path in self._anchors:
            way = variable - self._anchors[path].value
            # No step goes further than to the beginning, however large the rate.
            share = keras.ops.minimum(learning_rate * self.head_pull.value, 1.0)
            self.assign_sub(variable, share * way)
        if self.num_inputs and path.endswith(f"{networks.HEAD}/kernel"):
            rates = np.full([variable.shape[0], 1], self.states_rate, np.float32)
            rates[: self.num_inputs] = 1
            learning_rate = learning_rate * rates
        super().update_step(gradient, variable, learning_rate)


def _is_of_head(variable: keras.Variable) -> bool:
    return variable.path.split("/")[-2] == networks.HEAD


def compiled(network: keras.Model, training: params.Training, loss: str) -> keras.Model:
    """Compiles a network for a `Fitter` and returns it."""
    for layer in network.layers:
        if isinstance(layer, gru.GRU):
            layer.trainable = training.backbone_rate > 0
    reads_input = any(layer.name == "joined" for layer in network.layers)
    num_inputs = network.input_shape[-1] if reads_input else 0
    is_pulled = bool(training.head_pull or training.head_pulls)
    optimizer = adam(training, num_inputs, training.head_pull if is_pulled else None)
    optimizer.begin(network)
    compile_with(network, optimizer, loss)
    return network


def adam(
    training: params.Training, num_inputs: int, head_pull: float | np.ndarray | None
) -> Adam:
    """Returns the optimizer of a training; the last two as `Adam` has them."""
    return Adam(
        learning_rate=training.learning_rate,
        global_clipnorm=training.clip_norm or None,
        backbone_rate=training.backbone_rate,
        states_rate=training.states_rate,
        num_inputs=num_inputs,
        head_pull=head_pull,
    )


def head_pull(network: keras.Model) -> float:
    """Returns how strongly the head of a compiled network is pulled; 0 for not."""
    pull = network.optimizer.head_pull
    return 0.0 if pull is None else round(float(pull), 6)


def compile_with(
    network: keras.Model, optimizer: Adam, loss: str | Callable[..., tf.Tensor]
) -> None:
    """Compiles a network, or a part of it, with an optimizer that is there."""
    # On a CPU, XLA took longer to compile the recurrence, and to run it.
    network.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    # A step that finds every variable there need not be traced a second time.
    nothing = np.zeros([1, *network.output_shape[1:]], np.float32)
    network.compute_metrics(None, nothing, nothing)
    network.reset_metrics()


def all_steps(network: keras.Model) -> Steps:
    """Returns a graph of many steps of a compiled network.

    It takes inputs and labels, `[steps, batch, ...]` of each, and returns `loss` and
    `accuracy`, the means over the steps since the network's metrics were reset.
    """

    def run(inputs: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        logs = {"loss": 0.0, "accuracy": 0.0}
        for step in tf.range(tf.shape(inputs)[0]):
            logs = network.train_step((inputs[step], labels[step]))
        return logs

    shapes = network.input_shape, network.output_shape
    return tf.function(
        run, input_signature=[tf.TensorSpec((None, *shape)) for shape in shapes]
    )


def scorer(network: keras.Model) -> Scorer:
    """Returns a graph of inference that is traced once, for batches of any size."""
    inputs = tf.TensorSpec(network.input_shape, tf.float32)
    return tf.function(
        lambda batch: network(batch, training=False), input_signature=[inputs]
    )


def save_state(network: keras.Model, path: _Path) -> None:
    """Writes weights and optimizer of a compiled network, whole or not at all.

    Args:
      network: as `compiled` gave it.
      path: ends in `.npz`.
    """
    with files.whole(pathlib.Path(path)) as unfinished, unfinished.open("wb") as file:
        np.savez(file, *(variable.numpy() for variable in _variables(network)))


def restore_state(network: keras.Model, path: _Path) -> None:
    """Sets weights and optimizer to what `save_state` wrote of the same network.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is damaged, or of another network.
    """
    try:
        with np.load(path) as file:
            values = [file[name] for name in file.files]
        for variable, value in zip(_variables(network), values, strict=True):
            variable.assign(value)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: missing; {_ANEW}") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        message = f"{path}: not a whole state of this network ({error}); {_ANEW}"
        raise ValueError(message) from error


def _variables(network: keras.Model) -> list[keras.Variable]:
    return [*network.variables, *network.optimizer.variables]


def mix(*numbers: int) -> int:
    """Returns a seed that is a function of all the numbers, in their order."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
