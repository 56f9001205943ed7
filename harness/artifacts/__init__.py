"""The JSON files that the harness writes: one pydantic model for each, for writer and reader.

`run` (result.json), `check`, `plan`, `bench` and `gate` hold the models, `reading` finds out
which of them a file is of and refuses what it cannot use in one sentence. Bytes, FLOPs and
tokens are counts, times are seconds, and shares are in 0..1.
"""
