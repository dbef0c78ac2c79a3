"""IMAGPose: pose-guided person image generation by latent diffusion (Shen and Tang, NeurIPS 2024)."""
