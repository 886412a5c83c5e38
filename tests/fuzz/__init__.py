"""Hostile inputs of every kind, made from a seed. What may happen to each: it works, or one line says why not.

An unexpected exception, a run of more than ten seconds, an exit code without a word, and a control character that
reaches the terminal are failures. CI tries some dozens of each kind (``test_fuzz.py``); ``make fuzz`` goes on for as
long as it is told to, with seeds of its own. A new kind is a file in ``kinds/`` with a ``KIND``.
"""
