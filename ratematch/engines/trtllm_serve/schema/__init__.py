"""The contract as the installed TensorRT-LLM itself has it.

:mod:`.inside` runs in the container and asks the package there; :mod:`.answer` starts it and reads what it printed;
:mod:`.document` turns that untrusted JSON into checked values; :mod:`.check` holds a file's values to it;
:mod:`.files` does so for the files of a launch, and keeps the shipped contract as a second opinion.
"""
