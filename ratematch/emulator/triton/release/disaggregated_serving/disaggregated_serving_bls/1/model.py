"""The orchestrator of an emulated Triton: context, then generation, one request after another, as upstream's does.

Not as upstream's: a failure is sent as the response that it is, so that a client hears of it where the server lets
it through, and parameters of the request go on to both engines.
"""

import json

import triton_python_backend_utils as triton

FINAL = triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self._names = [parameters[f"{half}_model_name"]["string_value"] for half in ("context", "generation")]

    def execute(self, requests):
        for request in requests:
            self._serve(request, request.get_response_sender())

    def _serve(self, request, sender):
        given = json.loads(request.parameters() or "{}")
        fault = given.pop("ratematch_fault_ctx", None)
        own = {name: value for name, value in given.items() if name != "ratematch_fault"}
        own |= {"ratematch_fault": fault} if fault else {}
        context = self._request(self._names[0], request.inputs(), {**own, "request_type": "context_only"})
        first = list(context.exec(decoupled=True))
        failed = next((answer for answer in first if answer.has_error()), None)
        if failed is not None:
            return self._fail(sender, f"Context model {self._names[0]} failed with error: {failed.error().message()}")
        handed = triton.get_output_tensor_by_name(first[0], "context_phase_params") if first else None
        if handed is None:
            return self._fail(sender, "Context response must have an output named context phase params")
        inputs = [*request.inputs(), handed]
        # What is iterated over and what is sent on must live as long: the backend counts no references to either.
        generation = self._request(self._names[1], inputs, {**given, "request_type": "generation_only"})
        answers = generation.exec(decoupled=True)
        for answer in answers:
            if answer.has_error():
                what = f"Generation model {self._names[1]} failed with error: {answer.error().message()}"
                return self._fail(sender, what)
            sender.send(answer)
        sender.send(flags=FINAL)

    def _request(self, model, inputs, parameters):
        return triton.InferenceRequest(
            model_name=model, inputs=inputs, parameters=parameters, requested_output_names=[]
        )

    def _fail(self, sender, message):
        sender.send(triton.InferenceResponse(error=triton.TritonError(message)), flags=FINAL)
