"""Evaluation of a chat bundle on questions: right answers by kind, and the probability of the expected answer."""
