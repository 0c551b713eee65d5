"""A user's class is found, made and asked what it wants; what is wrong with it is said."""

from __future__ import annotations

import sys
import threading
from textwrap import dedent

import numpy as np
import pytest

from mlserver.config import make_config
from mlserver.errors import ModelLoadError
from mlserver.serving.predictors.predictor import load_predictor, of_object
from mlserver.serving.rows import Rows

VALUES = np.array([[1.0, 2.0], [3.0, 4.0]])
ROWS = Rows(VALUES)
SUM = """
    class Model:
        def predict(self, X):
            return X.sum(axis=1)
"""


class TestAClass:
    def test_is_found_in_the_module_beside_the_yaml(self, serve):
        predictor = serve(SUM)
        assert predictor.run("predict", ROWS).tolist() == [3, 7]
        assert (predictor.name, predictor.library) == ("Model", "my_model.Model")
        assert predictor.operations == {"predict"}
        assert (predictor.feature_names, predictor.n_features) == (None, None)
        assert not any([predictor.batchable, predictor.dataframe, predictor.is_async])

    def test_gets_the_very_array_of_the_rows(self):
        seen = []
        predictor = of_object(type("Model", (), {"predict": lambda _, X: seen.append(X)})())
        predictor.run("predict", ROWS)
        assert seen[0] is VALUES

    def test_may_be_in_a_package(self, serve):
        assert serve(SUM, module="models.churn").library == "models.churn.Model"

    def test_is_made_with_the_keyword_arguments_of_the_configuration(self, serve):
        source = """
            class Model:
                def __init__(self, factor, offset=0):
                    self.factor, self.offset = factor, offset
                def predict(self, X):
                    return X[:, 0] * self.factor + self.offset
        """
        assert serve(source, init_kwargs={"factor": 10}).run("predict", ROWS).tolist() == [10, 30]

    def test_says_its_feature_names_and_whether_calls_may_share_a_run(self, serve):
        predictor = serve(
            SUM.replace("def", "feature_names = ['a', 'b']\n        batchable = True\n        def")
        )
        assert (predictor.feature_names, predictor.n_features, predictor.batchable) == (("a", "b"), 2, True)

    def test_gets_its_width_from_the_configured_order_if_it_does_not_say(self, serve):
        predictor = serve(SUM, api={"feature_order": ["a", "b", "c"]})
        assert (predictor.feature_names, predictor.n_features) == (None, 3)

    def test_is_imported_and_made_in_the_thread_that_loads_it(self, serve):
        source = """
            import threading
            class Model:
                thread = threading.current_thread()
                def __init__(self):
                    assert threading.current_thread() is self.thread
                def predict(self, X):
                    return self.thread
        """
        made = []
        thread = threading.Thread(target=lambda: made.append(serve(source)))
        thread.start()
        thread.join()
        assert made[0].run("predict", ROWS) is thread

    def test_goes_before_an_installed_module_of_the_same_name(self, serve, tmp_path_factory):
        installed = tmp_path_factory.mktemp("site")
        (installed / "my_model.py").write_text(dedent(SUM.replace("sum", "max")))
        sys.path.insert(0, str(installed))
        assert serve(SUM).run("predict", ROWS).tolist() == [3, 7]

    def test_of_another_folder_may_have_the_same_name(self, serve, tmp_path_factory):
        first = serve(SUM)
        other = tmp_path_factory.mktemp("other")
        (other / "my_model.py").write_text(dedent(SUM.replace("sum", "max")))
        settings = {"predictor": {"module": "my_model", "class_name": "Model"}}
        second = load_predictor(make_config(settings, other))
        assert first.run("predict", ROWS).tolist() == [3, 7]
        assert second.run("predict", ROWS).tolist() == [2, 4]


class TestAClassThatCannotBeLoaded:
    @pytest.mark.parametrize(
        ("source", "settings", "message"),
        [
            (
                "import no_such_library",
                {},
                "Module my_model imports the Python module no_such_library, which is not",
            ),
            (
                "import json.nothing",
                {},
                "Module my_model imports the Python module json.nothing, which is not",
            ),
            ("class Model", {}, "Module my_model could not be imported: SyntaxError: "),
            ("1 / 0", {}, "Module my_model could not be imported: ZeroDivisionError: division by zero"),
            ("raise SystemExit(3)", {}, "Module my_model could not be imported: SystemExit: 3"),
            ("class Modell: pass", {}, r"my_model.py\) has no class Model; did you mean Modell\?$"),
            ("class Other: pass", {}, r"my_model.py\) has no class Model\.$"),
            ("def Model(): pass", {}, "my_model.Model is a function: expected a class with a predict method"),
            ("class Model: pass", {}, r"Model has no predict method: expected predict\(self, X\)"),
            ("class Model: predict = 3", {}, "Model.predict is an int: expected a method"),
            (
                "class Model:\n    def predict(self): pass",
                {},
                r"Model.predict\(\) cannot be called with one argument",
            ),
            (
                "class Model:\n    def __init__(self, size=1): pass",
                {"init_kwargs": {"sise": "secret"}},
                r"Model\(size=1\) cannot be made with predictor.init_kwargs of sise: .*unexpected keyword",
            ),
            (
                "class Model:\n    def __init__(self, size): pass",
                {},
                "init_kwargs of no arguments: missing a required argument: 'size'",
            ),
            (
                "class Model:\n    def __init__(self): open('/no/such/file')",
                {},
                "Making a Model raised FileNotFoundError: .*No such file",
            ),
            ("class Model:\n    def __init__(self): exit(1)", {}, "Making a Model raised SystemExit: 1"),
            (
                "class Model:\n    input = 'table'\n    def predict(self, X): pass",
                {},
                "input is 'table': expected",
            ),
            (
                "class Model:\n    feature_names = 'a'\n    def predict(self, X): pass",
                {},
                "is 'a': expected a list",
            ),
            (
                "class Model:\n    feature_names = [1]\n    def predict(self, X): pass",
                {},
                r"is \[1\]: expected",
            ),
        ],
    )
    def test_says_why(self, serve, source, settings, message):
        with pytest.raises(ModelLoadError, match=message) as caught:
            serve(source, **settings)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize(
        ("module", "message"),
        [
            ("my_modle", r"There is no module my_modle in .*; did you mean my_model\?$"),
            ("other", r"There is no module other in .*, nor is one installed\.$"),
            ("my_model.sub", r"There is no module my_model.sub in "),
        ],
    )
    def test_says_that_its_module_is_not_there(self, tmp_path, module, message):
        (tmp_path / "my_model.py").write_text(dedent(SUM))
        config = make_config({"predictor": {"module": module, "class_name": "Model"}}, tmp_path)
        with pytest.raises(ModelLoadError, match=message):
            load_predictor(config)

    def test_has_the_reason_as_its_cause(self, serve):
        with pytest.raises(ModelLoadError) as caught:
            serve("class Model:\n    def __init__(self): {}['key']")
        assert isinstance(caught.value.__cause__, KeyError)

    def test_lets_ctrl_c_through(self, serve):
        with pytest.raises(KeyboardInterrupt):
            serve("class Model:\n    def __init__(self): raise KeyboardInterrupt")

    def test_cannot_be_hidden_by_a_module_that_is_already_imported(self, serve):
        with pytest.raises(ModelLoadError, match=r"Module json is .*json.__init__.py.* Rename it and set"):
            serve(SUM, module="json")
        with pytest.raises(ModelLoadError, match=r"Module math is .*. Rename it and set"):
            serve(SUM, module="math")
        assert sys.modules["json"].dumps([]) == "[]"

    def test_says_how_pandas_is_installed(self, serve, monkeypatch):
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(
            ModelLoadError, match=r'needs .* pip install "mlserver-observability\[dataframe\]"'
        ):
            serve("class Model:\n    input = 'dataframe'\n    def predict(self, X): pass")
