"""The offline judge: an answer is checked against the dialogue acts of its turn."""
