"""OpenAI's gpt-oss models on Apple silicon."""
