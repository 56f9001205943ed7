"""Correctness and performance tests for GSM8K PPO with Tunix."""
