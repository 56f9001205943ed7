"""The recipe's own programs compiled for a TPU that is not here: HBM, sizes, bounds of time."""
