"""Plays a scripted gateway or fleet against a real peer, and tells what breaks the contract."""
