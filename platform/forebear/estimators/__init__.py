"""TracIn, ReTrac and their relatives: each an inner product of two embeddings."""
