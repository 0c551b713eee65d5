"""Both directions of the codec: a body to rows, and a predictor's answer to a body."""

from mlserver.serving.codec.decode import Decoder
from mlserver.serving.codec.encode import Encoder, normalise, output_shape, problem
from mlserver.serving.codec.schema import InputSchema

__all__ = ["Decoder", "Encoder", "InputSchema", "normalise", "output_shape", "problem"]
