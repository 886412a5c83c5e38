"""Words to token ids, without a tokenizer: ``w17`` is 17, any other word a number that it always has."""

import zlib

import numpy as np
import triton_python_backend_utils as triton


def number(word):
    return int(word[1:]) if word[:1] == "w" and word[1:].isdigit() else zlib.crc32(word.encode()) % 30_000


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        def given(name):
            return triton.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)

        ids = [number(word) for word in given("QUERY")[0].decode().split()] or [0]
        return triton.InferenceResponse(
            [
                triton.Tensor("INPUT_ID", np.array([ids], np.int32)),
                triton.Tensor("REQUEST_INPUT_LEN", np.array([[len(ids)]], np.int32)),
                triton.Tensor("REQUEST_OUTPUT_LEN", given("REQUEST_OUTPUT_LEN").reshape(1, -1).astype(np.int32)),
            ]
        )
