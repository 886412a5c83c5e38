"""The same simulation with its loop compiled, where a C compiler has built it (:mod:`.build`): optional, and equal to
the plain one to the bit."""
