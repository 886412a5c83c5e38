"""The first files on a new site: a cluster profile and a first sweep, from what Slurm and the model say.

:mod:`.answers` settles what the files say: a person's own answers first, then what was seen; what neither gives is
refused with the option that would. :mod:`.firstfiles` writes them, a comment beside each line.
"""
