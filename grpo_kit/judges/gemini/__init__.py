"""The judge that asks Gemini, through either of Google's SDKs."""
