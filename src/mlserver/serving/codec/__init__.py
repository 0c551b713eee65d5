"""Both directions of the codec: a body to rows, and a predictor's answer to a body."""

from mlserver.serving.codec.decode import Decoder, InputSchema
from mlserver.serving.codec.encode import Encoder, normalise, output_shape, problem

__all__ = ["Decoder", "Encoder", "InputSchema", "normalise", "output_shape", "problem"]
