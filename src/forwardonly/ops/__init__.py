"""Operations on activations, without parameters: what rules and bodies are made of."""
