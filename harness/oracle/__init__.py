"""The same mathematics once more, in NumPy float64, written from the papers.

What the trainer computes is held against these functions. They import NumPy
alone, so that no mistake of the trainer, or of what it stands on, can reach
both sides of a comparison. They are plain before they are fast.

Arrays are `[B, T]` (sequences, tokens) unless a docstring says otherwise, with
a last axis `V` for the vocabulary. Masks hold true, or anything but 0, at real
tokens. What stands at a masked position is never read, be it NaN.
"""
