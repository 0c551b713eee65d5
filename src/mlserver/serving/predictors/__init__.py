"""What predicts: a class of the user's or a model file, behind one interface.

``predictor`` is that interface. ``classes`` makes one of a class; ``artifacts`` makes one of a file, with the
loaders in ``estimators``, ``boosters`` and ``onnx``. ``inputs`` turns rows into what a model takes.
"""

from mlserver.serving.predictors.predictor import Predictor, load_predictor

__all__ = ["Predictor", "load_predictor"]
