"""What judges share that ask a chat model: prompt, parsing, retries, limits, prices. A cloud adds its Provider."""
