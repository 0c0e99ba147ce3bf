"""The weighted reward functions that TRL calls, made of judges and plain functions."""
