"""Leeway's wire contracts."""
