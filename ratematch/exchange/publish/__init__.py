"""A small copy of a results folder that may be shown to anybody: ``ratematch export results RESULTS --publish``.

What stands in files of known form is read and written anew; everything else is left out. Names of people, machines,
accounts and places become pseudonyms, the same for the same name (:mod:`.patterns` knows what they look like,
:mod:`.known` which there are, :mod:`.cleaner` puts the pseudonyms in). At the end :mod:`.scan` reads what was written
and nothing is handed out where it finds any of it.
"""
