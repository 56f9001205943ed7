"""The known issues of Tunix's PPO, one file each.

A file that does not begin with an underscore holds one issue: its docstring says what is expected
and what one gets, `ISSUE` is what is known of it, `probe` returns whether the installed Tunix has
it, where that is cheap, and `reproduce` shows it on plain Tunix. `registry` finds the files by
themselves: an issue needs nothing outside its own.
"""
