"""Where a run took place, and what it took: environment, memory, time per phase.

Nothing here knows of models or of the trainer.
"""
