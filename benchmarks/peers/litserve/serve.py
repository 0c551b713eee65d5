"""LitServe with batching, which stacks requests into one array, and its queue for high throughput.

Its README shows batches of 4 or 8 within 50 or 100 ms: 32 within 10 ms were as fast or faster.
"""

import os

import litserve
import models
import numpy as np


class Model(litserve.LitAPI):
    # LitServe reads the annotations of these methods as what a request holds, so there are none.
    def setup(self, device):
        self._predict = models.load()

    def decode_request(self, request):
        return np.asarray(request["ndarray"], dtype=float)

    def predict(self, batch):
        requests, rows, features = batch.shape
        return self._predict(batch.reshape(-1, features)).reshape(requests, rows)

    def encode_response(self, output):
        return {"predictions": output.tolist()}


if __name__ == "__main__":
    api = Model(max_batch_size=32, batch_timeout=0.01)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False)
