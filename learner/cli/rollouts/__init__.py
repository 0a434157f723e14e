"""The commands about rollouts: shows, exports and replays recorded groups."""
