"""What a network is trained as: on several GPUs, and in mixed precision.

Every GPU has a replica of the weights and takes an equal part of each batch. Gradients
and masked means are of the whole batch, so the result is that of one GPU, up to
rounding.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from genre_tl import params
from genre_tl.model import gru

# Others, such as sums over frames and the softmax, need the precision of float32.
_MIXED_LAYERS = (
    *(gru.GRU, keras.layers.GRU, keras.layers.LSTM),
    *(keras.layers.Bidirectional, keras.layers.Dropout),
)


def trainable(network: keras.Model, training: params.Training) -> keras.Model:
    """Returns a network with the weights of another, to be compiled and trained.

    With one GPU or none, and `precision` float32, it is `network` itself. Else it is a
    copy whose variables are in the same order: a replica on each of the visible GPUs,
    or of as many as divide the batch size. In mixed precision recurrent layers
    calculate with 16 bits; weights and all other layers have 32.
    """
    strategy = _strategy(training.batch_size)
    is_mixed = training.precision != "float32"
    if strategy.num_replicas_in_sync == 1 and not is_mixed:
        return network

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if is_mixed and isinstance(layer, _MIXED_LAYERS):
            config["dtype"] = training.precision
            if "layer" in config:  # inside of `Bidirectional`
                config["layer"]["config"]["dtype"] = training.precision
        return type(layer).from_config(config)

    with strategy.scope():
        copy = keras.models.clone_model(network, clone_function=clone)
    for variable, other in zip(copy.variables, network.variables, strict=True):
        variable.assign(other)
    return copy


def compile(model: keras.Model, training: params.Training, **options: Any) -> None:
    """Compiles a model from `trainable` with Adam; `options` are Keras's."""
    strategy = model.distribute_strategy
    with strategy.scope():
        count = strategy.num_replicas_in_sync
        several = count > 1
        optimizer = (ReplicatedAdam if several else keras.optimizers.Adam)(
            training.learning_rate,
            weight_decay=training.weight_decay or None,
            # A replica clips its share, one of `count` equal ones.
            global_clipnorm=training.clip_norm / count or None,
        )
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        if training.precision == "mixed_float16":
            optimizer = (
                ReplicatedLossScale if several else keras.optimizers.LossScaleOptimizer
            )(optimizer)
        # On a CPU, XLA is slower for a recurrence.
        model.compile(optimizer, jit_compile=False, **options)
        optimizer.build(model.trainable_variables)


def mean(values: tf.Tensor, is_counted: tf.Tensor) -> tf.Tensor:
    """Returns the mean of the counted values of a batch, or 0.

    Of several replicas each returns its share: they sum to the mean.
    """
    counted = tf.cast(is_counted, values.dtype)
    number = tf.reduce_sum(counted)
    replica = tf.distribute.get_replica_context()
    if replica and replica.num_replicas_in_sync > 1:
        number = replica.all_reduce(tf.distribute.ReduceOp.SUM, number)
    return tf.math.divide_no_nan(tf.reduce_sum(values * counted), number)


def _strategy(batch_size: int) -> tf.distribute.Strategy:
    devices = _devices()
    # Keras averages over replicas, which is right for parts of equal size.
    counts = range(len(devices), 0, -1)
    count = next((x for x in counts if batch_size % x == 0), 1)
    if count == 1:
        return tf.distribute.get_strategy()
    # The default, collective operations, failed with those of `mean`, as replicas may
    # reach them in another order.
    reduce = tf.distribute.HierarchicalCopyAllReduce()
    return tf.distribute.MirroredStrategy(devices[:count], reduce)


def _devices() -> list[str]:
    return [device.name for device in tf.config.list_logical_devices("GPU")]


def _averaged(gradients: list[Any]) -> list[Any]:
    """Returns the gradients of the whole batch, divided by the number of replicas.

    Keras clips, and looks for infinite values, before it adds the replicas'.
    """
    replica = tf.distribute.get_replica_context()
    total = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    return [gradient / replica.num_replicas_in_sync for gradient in total]


class ReplicatedLossScale(keras.optimizers.LossScaleOptimizer):
    """Keras's optimizer, on several replicas."""

    def apply(self, grads: list[Any], trainable_variables: Any = None) -> None:
        """Updates the variables by the gradients of this replica and the others."""
        super().apply(_averaged(grads), trainable_variables)


class ReplicatedAdam(keras.optimizers.Adam):
    """Keras's optimizer, on several replicas."""

    def apply(self, grads: list[Any], trainable_variables: Any = None) -> None:
        """Updates the variables by the gradients of this replica and the others."""
        super().apply(_averaged(grads), trainable_variables)
