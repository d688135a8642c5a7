"""A pytest plugin: scikit-learn's own tests of its perceptrons, with ours in their place."""

from __future__ import annotations

from typing import Any

import sklearn.neural_network

from innerloop.plugins import sklearn as ours

sklearn.neural_network.MLPClassifier = ours.MLPClassifier
sklearn.neural_network.MLPRegressor = ours.MLPRegressor


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """See to it that it is ours that they test."""
    for item in items:
        assert item.module.MLPClassifier is ours.MLPClassifier
        assert item.module.MLPRegressor is ours.MLPRegressor
