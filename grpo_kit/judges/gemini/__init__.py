"""Gemini as a judge, through either of Google's SDKs."""
