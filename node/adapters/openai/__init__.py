"""Whatever speaks OpenAI's protocol as an engine: vLLM, SGLang, llama-server, Ollama and others."""
