"""The simulated cluster: nothing is lost without failures, and all units end."""

import numpy as np

from tools.benchmarks import cluster

SECS = np.random.default_rng(0).uniform(100, 300, 2000)


def test_without_failures_nothing_is_lost_and_no_processor_waits():
    outcome = cluster.Cluster(np.ones(5), 0, seed=0).run(SECS)
    assert outcome.lost == outcome.num_failures == 0
    np.testing.assert_allclose(outcome.used, SECS.sum())
    ideal = SECS.sum() / (5 * 16)
    assert ideal <= outcome.elapsed <= ideal + SECS.max()


def test_failures_lose_what_was_begun_and_every_unit_still_ends_once():
    outcome = cluster.Cluster(np.ones(5), 2, seed=0).run(SECS)
    assert outcome.num_failures > 5
    # A failure loses half a unit on each processor on average, and at most a whole.
    most = outcome.num_failures * 16 * SECS.max()
    assert 0.2 * most < outcome.lost < most
    np.testing.assert_allclose(outcome.used, SECS.sum())


def test_slow_machines_do_less():
    slowness = np.array([1.0, 1.0, 4.0])
    outcome = cluster.Cluster(slowness, 0, seed=0).run(SECS)
    ideal = SECS.sum() / (16 * np.sum(1 / slowness))
    assert ideal <= outcome.elapsed <= ideal + 4 * SECS.max()
    assert outcome.used > SECS.sum()
