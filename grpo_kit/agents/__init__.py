"""Agents that call tools: the worlds that a model talks to, and the dialogues that it has there.

A world answers calls and, where it has a user, replies. `world.py` says what a world is; each kind has its module.
`dialogue.py` leads a batch of dialogues, in training as in evaluation.
"""
