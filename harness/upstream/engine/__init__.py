"""Cluster, learner, rollout and checkpoints: what a run needs, whatever is fixed."""
