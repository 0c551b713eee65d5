"""A predictor's methods are called in order, each once, on the thread or loop that they belong to."""

from __future__ import annotations

import asyncio
import functools
import logging
import sys

import numpy as np
import pytest

from mlserver.serving.predictors.predictor import Predictor, of_object
from mlserver.serving.rows import Rows

VALUES = np.array([[1.0, 2.0], [3.0, 4.0]])
ROWS = Rows(VALUES)


class Steps:
    """Writes down what is called."""

    def __init__(self):
        self.calls = []

    def preprocess(self, X):
        self.calls.append("preprocess")
        return X + 1

    def predict(self, X):
        self.calls.append("predict")
        return X[:, 0]

    def predict_proba(self, X):
        self.calls.append("predict_proba")
        return X

    def postprocess(self, predictions):
        self.calls.append("postprocess")
        return predictions * 10


class CallsPreprocess(Steps):
    def predict(self, X):
        return super().predict(self.preprocess(X))


class CallsPreprocessInAHelper(Steps):
    def predict(self, X):
        return np.array([self.prepared(row) for row in X])

    def prepared(self, row):
        return self.preprocess(row)[0]


class InheritsAPredictThatCallsPreprocess(CallsPreprocess):
    def preprocess(self, X):
        return super().preprocess(X)


class ExtendsAPredictThatCallsPreprocess(CallsPreprocess):
    def predict(self, X):
        return super().predict(X)


class ReplacesAPredictThatCallsPreprocess(CallsPreprocess):
    def predict(self, X):
        return X[:, 0]


class CallsPostprocess(Steps):
    def predict(self, X):
        return self.postprocess(X[:, 0])


class TestTheStepsOfARun:
    def test_are_preprocess_predict_postprocess(self):
        steps = Steps()
        assert of_object(steps).run("predict", ROWS).tolist() == [20, 40]
        assert steps.calls == ["preprocess", "predict", "postprocess"]

    def test_for_probabilities_are_without_postprocess(self):
        steps = Steps()
        predictor = of_object(steps)
        assert predictor.operations == {"predict", "predict_proba"}
        assert predictor.run("predict_proba", ROWS).tolist() == [[2, 3], [4, 5]]
        assert steps.calls == ["preprocess", "predict_proba"]

    @pytest.mark.parametrize(
        "cls",
        [
            CallsPreprocess,
            CallsPreprocessInAHelper,
            InheritsAPredictThatCallsPreprocess,
            ExtendsAPredictThatCallsPreprocess,
            ReplacesAPredictThatCallsPreprocess,
        ],
    )
    def test_are_each_taken_once_whoever_calls_preprocess(self, cls):
        steps = cls()
        assert of_object(steps).run("predict", Rows(VALUES[:1])).tolist() == [20]
        assert steps.calls.count("preprocess") == 1

    def test_are_each_taken_once_whoever_calls_postprocess(self):
        steps = CallsPostprocess()
        assert of_object(steps).run("predict", ROWS).tolist() == [20, 40]
        assert steps.calls == ["preprocess", "postprocess"]

    def test_that_predict_takes_itself_are_said_in_the_log(self, caplog):
        caplog.set_level(logging.INFO, "mlserver")
        of_object(CallsPreprocess())
        assert caplog.messages == ["CallsPreprocess.predict calls preprocess itself"]

    def test_are_looked_at_through_decorators(self):
        def logged(function):
            @functools.wraps(function)
            def wrapper(*args):
                return function(*args)

            return wrapper

        class Model(Steps):
            @logged
            def predict(self, X):
                return self.preprocess(X)[:, 0]

        steps = Model()
        of_object(steps).run("predict", ROWS)
        assert steps.calls == ["preprocess", "postprocess"]

    def test_may_be_functions_set_on_the_object(self):
        class Model:
            def __init__(self):
                self.predict = len

        assert of_object(Model()).run("predict", ROWS) == 2

    def test_raise_what_they_raise(self):
        class Model:
            def predict(self, X):
                raise SystemExit(5)

        with pytest.raises(SystemExit):
            of_object(Model()).run("predict", ROWS)


class AsyncSteps:
    def __init__(self):
        self.closed_on = None

    def preprocess(self, X):
        return X + 1

    async def predict(self, X):
        await asyncio.sleep(0)
        return X[:, 0]

    async def postprocess(self, predictions):
        await asyncio.sleep(0)
        return predictions * 10

    async def check_health(self):
        await asyncio.sleep(0)
        return self.closed_on is None

    async def close(self):
        await asyncio.sleep(0)
        self.closed_on = asyncio.get_running_loop()


class TestAnAsyncClass:
    def test_may_have_steps_of_both_kinds(self):
        predictor = of_object(AsyncSteps())
        assert predictor.is_async
        assert asyncio.run(predictor.run_async("predict", ROWS)).tolist() == [20, 40]

    def test_is_one_if_any_step_is_async(self):
        class Model:
            def predict(self, X):
                return X

            async def preprocess(self, X):
                return X

        assert of_object(Model()).is_async

    def test_closes_on_the_loop_that_runs_it(self):
        steps = AsyncSteps()
        predictor = of_object(steps)

        async def life():
            assert await predictor.check_health_async()
            await predictor.close_async()
            await predictor.close_async()
            assert not await predictor.check_health_async()
            return asyncio.get_running_loop()

        assert asyncio.run(life()) is steps.closed_on

    def test_closes_where_nobody_can_await_it_too(self):
        steps = AsyncSteps()
        predictor = of_object(steps)
        assert predictor.check_health()
        predictor.close()
        assert not predictor.check_health()

        async def in_a_loop():
            another = AsyncSteps()
            of_object(another).close()
            return another.closed_on is not None

        assert asyncio.run(in_a_loop())


class TestHooks:
    def test_without_a_health_check_a_predictor_is_healthy(self):
        assert of_object(Steps()).check_health() is True

    @pytest.mark.parametrize(("said", "healthy"), [(None, True), (True, True), (False, False), (0, False)])
    def test_a_health_check_that_says_nothing_is_content(self, said, healthy):
        steps = Steps()
        steps.check_health = lambda: said
        assert of_object(steps).check_health() is healthy
        assert asyncio.run(of_object(steps).check_health_async()) is healthy

    def test_close_is_called_once(self):
        steps = Steps()
        steps.close = lambda: steps.calls.append("close")
        predictor = of_object(steps)
        predictor.close()
        predictor.close()
        assert steps.calls == ["close"]


class TestWarmingUp:
    def test_is_one_run_on_a_row_of_zeros(self):
        steps = Steps()
        steps.feature_names = ["a", "b", "c"]
        steps.preprocess = lambda X: steps.calls.append(X.tolist()) or X
        of_object(steps).warm_up()
        assert steps.calls == [[[0, 0, 0]], "predict", "postprocess"]

    def test_waits_for_the_loop_of_an_async_predictor(self):
        steps = AsyncSteps()
        steps.feature_names = ["a"]
        warmed = []
        steps.preprocess = lambda X: warmed.append(X.tolist()) or X
        predictor = of_object(steps)
        predictor.warm_up()
        assert warmed == []
        asyncio.run(predictor.warm_up_async())
        assert warmed == [[[0]]]

    @pytest.mark.parametrize("attributes", [{}, {"feature_names": ["a"], "input": "dataframe"}])
    def test_is_nothing_where_no_such_row_can_be_made(self, attributes):
        steps = Steps()
        vars(steps).update(attributes)
        of_object(steps).warm_up()
        assert steps.calls == []

    def test_that_fails_is_only_logged(self, caplog):
        steps = Steps()
        steps.feature_names = ["a"]
        steps.predict = lambda X: sys.exit("no zeros, please")
        of_object(steps).warm_up()
        (record,) = caplog.records
        assert (record.levelname, record.getMessage()) == (
            "WARNING",
            "Steps could not be warmed up with a row of zeros",
        )
        assert "Traceback" in caplog.text
        assert "SystemExit: no zeros, please" in caplog.text


def test_a_predictor_can_be_made_of_plain_functions():
    predictor = Predictor("doubler", "none", {"predict": [lambda X: X * 2]}, feature_names=("a", "b"))
    predictor.warm_up()
    assert predictor.run("predict", ROWS).tolist() == [[2, 4], [6, 8]]
    assert predictor.n_features == 2
    assert predictor.check_health()
    predictor.close()
