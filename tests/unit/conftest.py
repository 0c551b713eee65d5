"""What several unit tests share."""

from __future__ import annotations

import pickle
import sys
from textwrap import dedent

import numpy as np
import pytest

from mlserver.config import make_config
from mlserver.errors import ModelLoadError
from mlserver.serving.predictors.predictor import load_predictor
from mlserver.serving.predictors.trained import array
from mlserver.serving.rows import Rows


class Files:
    """Model files: made, loaded, and compared with the models that they were made of."""

    rows = np.array([[5.1, 3.5, 1.4, 0.2], [5.0, 2.0, 3.5, 1.0], [6.9, 3.2, 5.7, 2.3], [5.0, 3.4, 1.5, 0.2]])
    """Some rows of iris: of class 0, 1, 2 and 0."""

    def saved(self, model, path):
        """Writes a model to a file of the format that its suffix says."""
        if path.suffix == ".skops":
            import skops.io

            skops.io.dump(model, path)
        elif path.suffix == ".joblib":
            import joblib

            joblib.dump(model, path)
        elif path.suffix == ".pkl":
            path.write_bytes(pickle.dumps(model))
        else:
            model.save_model(path)
        return path

    def load(self, path, *, api=None, **settings):
        """The predictor for a file, as the server would load it."""
        settings |= {"artifact": path.name}
        if path.suffix in (".joblib", ".pkl"):
            settings |= {"allow_pickle": True}
        return load_predictor(make_config({"predictor": settings, "api": api or {}}, path.parent))

    def refusal(self, path, **settings):
        """What is said about a file that cannot be loaded."""
        with pytest.raises(ModelLoadError) as caught:
            self.load(path, **settings)
        return str(caught.value)

    def answers(self, predictor, rows=rows):
        """What a predictor says of rows: to predict and, where it has that, to predict_proba."""
        if not isinstance(rows, Rows):
            rows = Rows(np.asarray(rows, dtype=float), predictor.feature_names)
        return [predictor.run(operation, rows) for operation in sorted(predictor.operations)]

    def assert_same(self, predictor, *expected, rows=rows):
        given = self.answers(predictor, rows)
        assert len(given) == len(expected)
        for mine, theirs in zip(given, expected, strict=True):
            assert np.shape(mine) == np.shape(theirs)
            assert np.asarray(mine).dtype.kind == np.asarray(theirs).dtype.kind
            exact = mine.dtype.kind in "OUi"
            (np.testing.assert_array_equal if exact else np.testing.assert_allclose)(mine, theirs)

    def assert_like_each_row_alone(self, predictor, rows):
        """An answer must not depend on the calls that share a run."""
        for operation in predictor.operations:
            together = predictor.run(operation, rows)
            alone = [predictor.run(operation, Rows([row], rows.names))[0] for row in array(rows)]
            if np.asarray(together).dtype.kind == "f":
                np.testing.assert_allclose(together, alone, rtol=1e-5)
            else:
                assert list(together) == alone


@pytest.fixture
def files():
    return Files()


@pytest.fixture
def modules_as_before(monkeypatch):
    """What a test imports from outside the installed packages is gone after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if "site-packages" not in (getattr(sys.modules[name], "__file__", None) or "site-packages"):
            del sys.modules[name]


@pytest.fixture
def serve(tmp_path, modules_as_before):
    """Writes a module and loads a class from it."""

    def serve(source, class_name="Model", *, module="my_model", api=None, **settings):
        path = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(source))
        settings |= {"module": module, "class_name": class_name}
        return load_predictor(make_config({"predictor": settings, "api": api or {}}, tmp_path))

    return serve
