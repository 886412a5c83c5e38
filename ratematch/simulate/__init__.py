"""Deployments in virtual time: the emulator's scheduler, hand-over and routers on a clock that only jumps."""
