"""BentoML with adaptive batching, as its page of that name shows it."""

import bentoml
import models
import numpy as np


@bentoml.service
class Model:
    def __init__(self) -> None:
        self._predict = models.load()

    # The size counts rows, not requests: 3,200 hold 32 requests of 100 rows, where the page's 32 hold none.
    # The page's max_latency_ms of 1000 is a deadline past which it answers 503, so its default stays.
    @bentoml.api(batchable=True, batch_dim=0, max_batch_size=3200)
    def predict(self, ndarray: np.ndarray) -> np.ndarray:
        return self._predict(ndarray)
