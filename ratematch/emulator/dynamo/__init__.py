"""Emulated engine workers of NVIDIA Dynamo: real workers to its runtime, with this emulator's engine inside."""
