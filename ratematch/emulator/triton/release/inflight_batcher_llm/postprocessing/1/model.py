"""Token ids to words: 17 is ``w17``."""

import numpy as np
import triton_python_backend_utils as triton


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        ids = triton.get_input_tensor_by_name(request, "TOKENS_BATCH").as_numpy().reshape(-1)
        text = "".join(f" w{token}" for token in ids).encode()
        return triton.InferenceResponse([triton.Tensor("OUTPUT", np.array([[text]], np.object_))])
