"""Search in memories and hypotheses: by words and by embeddings."""
