"""What is timed: the programs of a global step and the step itself, at training's shapes.

`benchmarks/` times it under pytest-benchmark; the gate times it in processes of
its own, through `python -m harness.bench.worker`, and sees only the JSON.
"""
