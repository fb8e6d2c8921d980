"""Answers: their packaging, kinds and values, and which equals which."""
