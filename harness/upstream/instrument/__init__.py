"""Users of the hooks: what watches, lowers, times or replays the parts of a step."""
